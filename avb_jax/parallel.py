"""One pure step on any number of devices: `jit` over a mesh, or `pmap`."""

from collections.abc import Sequence
from functools import partial

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from avb_jax.step import Step

MODES = ("jit", "pmap")
AXIS = "devices"


def compile_step(
    step: Step,
    mode: str = "jit",
    *,
    batch_axis: int = 0,
    devices: Sequence[jax.Device] | None = None,
) -> Step:
    """Compiles (state, batch) -> (state, metrics) for several devices, donating the state.

    Args:
        step: from `make_train_step`, or several at once from `fuse_steps`.
        mode: `jit` shards the batch over a mesh, replicates the state and leaves the
            averaging to the compiler: 1 and n devices draw the same noise. `pmap` runs the
            step on each device, with noise of its own and an explicit mean.
        batch_axis: the axis of the batch that holds B; 1 for fused steps.
        devices: the devices to use; all local ones where unset.

    Returns:
        A function of the same signature. Its `state` argument is used up.

    Raises:
        ValueError: for another mode, or, when called, for a batch that the devices do not
            divide.
    """
    if mode not in MODES:
        raise ValueError(f"mode was {mode!r}; allowed are {', '.join(MODES)}")
    devices = list(devices or jax.local_devices())
    spec = PartitionSpec(*[None] * batch_axis, AXIS)
    if mode == "jit":
        mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
        replicated, sharded = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, spec)
        compiled = jax.jit(
            lambda state, batch: step(state, batch),
            in_shardings=(replicated, sharded),
            out_shardings=replicated,
            donate_argnums=0,
        )
    else:
        compiled = jax.pmap(
            partial(step, axis_name=AXIS),
            axis_name=AXIS,
            in_axes=(None, batch_axis),
            out_axes=None,
            devices=devices,
            donate_argnums=0,
        )

    def call(state, batch):
        size = batch.shape[batch_axis]
        if size % len(devices):
            raise ValueError(
                f"batch size was {size}; allowed are multiples of the {len(devices)} devices"
            )
        if mode == "jit":
            # Placed as it will come back, or the second call would be traced again.
            return compiled(jax.device_put(state, replicated), batch)
        shape = batch.shape
        split = (*shape[:batch_axis], len(devices), size // len(devices))
        return compiled(state, batch.reshape(*split, *shape[batch_axis + 1 :]))

    return call
