"""One pure step on any number of devices and processes: `jit` over a mesh, or `pmap`."""

import math
from collections.abc import Sequence
from functools import partial

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from avb_jax.step import Metrics, Step, TrainState
from avb_jax.types import Array, Tree

MODES = ("jit", "pmap")
AXIS = "devices"


class CompiledStep:
    """(state, batch) -> (state, metrics), compiled; the state that is given is used up.

    Under `pmap` in several processes it is not, and two of them are in memory.
    """

    def __init__(
        self,
        step: Step,
        mode: str,
        batch_axis: int,
        devices: list[jax.Device],
        shard_optimizer: bool,
    ):
        self.devices, self.batch_axis, self.mode = devices, batch_axis, mode
        self._processes = len({device.process_index for device in devices})
        self._mesh = jax.make_mesh(
            (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
        )
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._split = NamedSharding(self._mesh, PartitionSpec(*[None] * batch_axis, AXIS))
        self._whole = jax.jit(lambda tree: tree, out_shardings=self._replicated)
        self._shard_optimizer = shard_optimizer
        if mode == "pmap":
            mapped = partial(step, axis_name=AXIS)
            # Across processes pmap moves the state first, and then misses what it gave away.
            self._compiled = jax.pmap(
                mapped,
                AXIS,
                devices=devices,
                in_axes=(None, batch_axis),
                out_axes=None,
                donate_argnums=() if self._processes > 1 else 0,
            )
        else:
            self._compiled = jax.jit(partial(self._placed_step, step), donate_argnums=0)

    def __call__(self, state: TrainState, batch: Array) -> tuple[TrainState, Metrics]:
        """Takes the step; `batch` holds the rows of this process alone, or comes from `put`.

        Raises:
            ValueError: for a batch that the devices do not divide.
        """
        # Placed as it will come back, or the second call would be traced again.
        state = self.place(state) if self.mode == "jit" else state
        return self._compiled(state, self.put(batch))

    def put(self, batch: Array) -> Array:
        """A batch as the devices take it, each its rows."""
        if getattr(batch, "sharding", None) == self._split:
            return batch
        shape, axis = batch.shape, self.batch_axis
        if shape[axis] * self._processes % len(self.devices):
            raise ValueError(
                f"batch size was {shape[axis] * self._processes}; allowed are multiples of the "
                f"{len(self.devices)} devices"
            )
        if self.mode == "jit":
            return jax.make_array_from_process_local_data(self._split, batch)
        count = len(self.devices) // self._processes
        return batch.reshape(*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :])

    def place(self, state: TrainState) -> TrainState:
        """The state where the step wants it, the same in every process."""
        return jax.tree.map(_placed, state, self._placement(state))

    def gather(self, tree: Tree) -> Tree:
        """Every array whole, on this process's first device; all processes call it together."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), self._whole(tree))

    def _placed_step(self, step: Step, state: TrainState, batch: Array):
        state, metrics = step(state, batch)
        metrics = jax.lax.with_sharding_constraint(metrics, self._replicated)
        return jax.lax.with_sharding_constraint(state, self._placement(state)), metrics

    def _placement(self, state: TrainState) -> TrainState:
        replicated = jax.tree.map(lambda _: self._replicated, state)
        if not self._shard_optimizer:
            return replicated
        return replicated._replace(opt_state=jax.tree.map(self._slices, state.opt_state))

    def _slices(self, leaf: Array) -> NamedSharding:
        """Along the first axis that the devices divide; whole where there is none."""
        count = len(self.devices)
        axis = next((i for i, n in enumerate(leaf.shape) if n and n % count == 0), None)
        if axis is None:
            return self._replicated
        return NamedSharding(self._mesh, PartitionSpec(*[None] * axis, AXIS))


def _placed(leaf: Array, sharding: NamedSharding) -> Array:
    if getattr(leaf, "sharding", None) == sharding:
        return leaf
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) and jax.process_count() > 1:
        # JAX sends no typed keys to other processes' devices: their bits instead.
        data = jax.device_put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jax.device_put(leaf, sharding)


def compile_step(
    step: Step,
    mode: str = "jit",
    *,
    batch_axis: int = 0,
    devices: Sequence[jax.Device] | None = None,
    shard_optimizer: bool = False,
) -> CompiledStep:
    """Compiles (state, batch) -> (state, metrics) for several devices, donating the state.

    Args:
        step: from `make_train_step`, or several at once from `fuse_steps`.
        mode: `jit` shards the batch over a mesh, replicates the state and leaves the
            averaging to the compiler: 1 and n devices draw the same noise. `pmap` runs the
            step on each device, with noise of its own and an explicit mean.
        batch_axis: the axis of the batch that holds B; 1 for fused steps.
        devices: the devices to use; all, those of other processes too, where unset.
        shard_optimizer: under `jit`, each device keeps its part of the optimisers' states, the
            averaged parameters among them (the first stage of ZeRO: Rajbhandari et al., 2020),
            where a side of an array is a multiple of the devices.

    Returns:
        A function of the same signature, whose batch is this process's part of B.

    Raises:
        ValueError: for another mode, or a sharded optimiser under `pmap`.
    """
    if mode not in MODES:
        raise ValueError(f"mode was {mode!r}; allowed are {', '.join(MODES)}")
    if shard_optimizer and mode != "jit":
        raise ValueError(f"shard_optimizer was given with mode {mode!r}; allowed is 'jit'")
    return CompiledStep(step, mode, batch_axis, list(devices or jax.devices()), shard_optimizer)


def devices_for(batch_size: int) -> list[jax.Device]:
    """As many devices of every process as divide the batch.

    Raises:
        ValueError: where the processes themselves do not divide it.
    """
    processes = jax.process_count()
    if batch_size % processes:
        raise ValueError(
            f"batch_size was {batch_size}; allowed are multiples of the {processes} processes"
        )
    count = math.gcd(batch_size // processes, jax.local_device_count())
    return [d for i in range(processes) for d in jax.local_devices(i)[:count]]
