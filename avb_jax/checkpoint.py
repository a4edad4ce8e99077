"""Checkpoints of a training state: a few lines over Orbax.

Orbax makes saves asynchronous and atomic, and places arrays on devices again. Added here is
what it does not notice: a flipped byte in the data, and a state of another dtype. Each
checkpoint holds the digests of its files, written before the rename that makes it one, so that
there is no moment, and no signal, at which a checkpoint exists without them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from logging import INFO, LogRecord
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from absl import logging

from avb_jax.files import fault_of, write_digests
from avb_jax.processes import PeerLost
from avb_jax.types import Tree

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

_ITEM = "state"
_FORMAT, _NEWEST_FORMAT = "format", 1  # raised when an older version could not read it


class Checkpoints:
    """The checkpoints of one run, in a directory of their own.

    A state is any pytree of arrays, typed random keys included; None and empty containers are
    taken from the target when it is restored. In a run of several processes the directory is
    one that all of them see, and all of them make the same calls.
    """

    def __init__(self, directory: str | Path, keep: int = 3):
        """Creates the directory, with those above it, where there is none.

        Args:
            directory: where the checkpoints are, or will be.
            keep: how many of the newest checkpoints stay.

        Raises:
            ValueError: `keep` is below 1.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}.")
        self.directory = Path(directory).resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._keep = keep
        # Opened by the first save: one that only reads must not remove another's save in progress.
        self._manager: ocp.CheckpointManager | None = None
        logging.get_absl_logger().addFilter(_is_worth_reading)

    def save(self, step: int, state: Tree) -> None:
        """Starts to save, and returns as soon as the state may be changed or donated.

        Waits for the save before it, and raises what that one raised (a full disk, say). Saving
        the newest step once more does nothing.

        Raises:
            ValueError: `step` is below the newest checkpoint's.
            OSError: what is to be written cannot be.
        """
        import orbax.checkpoint as ocp

        self.wait()
        newest = max(self.steps(), default=0)
        if step < newest:
            raise ValueError(f"step must be at least {newest}, the newest saved, got {step}.")
        if step in self.steps():
            return
        if self._manager is None:
            self._manager = _open_manager(self.directory, self._keep)
        leaves = _leaves_by_name(state)
        described = {name: describe(leaf) for name, leaf in leaves.items()}
        about = {_FORMAT: _NEWEST_FORMAT, **described}
        item = ocp.args.StandardSave(leaves, custom_metadata=about)
        with _storage_errors():
            self._manager.save(step, args=ocp.args.Composite(**{_ITEM: item}), force=True)

    def wait(self) -> None:
        """Returns when the last save is durable; raises what it raised."""
        if self._manager is not None:
            with _storage_errors():
                self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """The steps saved so far, in ascending order, those damaged and not yet found included."""
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def restore(self, target: Tree) -> tuple[int, Tree] | None:
        """Restores the newest checkpoint that is whole, bit for bit.

        Damaged checkpoints that are newer (files missing, cut short or changed) are renamed
        `damaged-STEP`, with one warning that names them.

        Args:
            target: a state, or the `jax.ShapeDtypeStruct`s of one, with the structure, dtypes
                and shardings to restore to; leaves without a sharding go to the first device.

        Returns:
            The step and the state, or None where there is no checkpoint.

        Raises:
            ValueError: no checkpoint is whole, or the newest whole one holds a state of other
                names, shapes or dtypes than `target`, or was written by a newer version; nothing
                is renamed then.
        """
        self.wait()
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            fault = fault_of(self._path(step) / _ITEM)
            if fault is None:
                return self._restore(step, target, damaged)
            damaged[step] = fault
        if damaged:
            raise ValueError(f"no checkpoint in {self.directory} is whole: {_listed(damaged)}.")
        return None

    def close(self) -> None:
        """Waits for the last save and ends the threads behind it."""
        if self._manager is not None:
            with _storage_errors():
                self._manager.close()
            self._manager = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        # A save that waits for a process that is gone would never end.
        if kind is PeerLost:
            return
        with suppress(OSError) if kind else nullcontext():  # it has been raised already
            self.close()

    def _path(self, step: int) -> Path:
        return self.directory / f"{step:08d}"

    def _restore(self, step: int, target: Tree, damaged: dict[int, str]) -> tuple[int, Tree]:
        import orbax.checkpoint as ocp

        path = self._path(step) / _ITEM
        wanted = _leaves_by_name(target)
        handler = ocp.StandardCheckpointHandler()
        saved = dict(handler.metadata(path).custom_metadata)
        if (written := saved.pop(_FORMAT, _NEWEST_FORMAT)) > _NEWEST_FORMAT:
            raise ValueError(
                f"the checkpoint {path.parent} was written by a newer version of avb_jax: format "
                f"{written}, allowed is up to {_NEWEST_FORMAT}; upgrade to read it."
            )
        fault = difference(saved, wanted)
        if fault:
            raise ValueError(f"the checkpoint {path.parent} is of another model: {fault}.")
        if damaged:
            self._set_aside(damaged)
            logging.warning(
                "Damaged checkpoints set aside in %s, going back to step %d: %s.",
                self.directory,
                step,
                _listed(damaged),
            )
        placed = {name: _placed(leaf) for name, leaf in wanted.items()}
        restored = handler.restore(path, args=ocp.args.StandardRestore(placed))
        handler.close()
        leaves = [restored[name] for name in wanted]
        return step, jax.tree.unflatten(jax.tree.structure(target), leaves)

    def _set_aside(self, damaged: dict[int, str]) -> None:
        """Renames step directories, in one process, when all have seen what is in them."""
        from orbax.checkpoint import multihost

        multihost.sync_global_processes("avb_jax_checkpoints_examined")
        if jax.process_index() == 0:
            for step in damaged:
                path = self._path(step)
                aside = path.with_name(f"damaged-{path.name}")
                again = 1
                while aside.exists():
                    again += 1
                    aside = path.with_name(f"damaged-{path.name}-{again}")
                path.rename(aside)
        multihost.sync_global_processes("avb_jax_checkpoints_set_aside")
        if self._manager is not None:
            self._manager.reload()


def _open_manager(directory: Path, keep: int) -> "ocp.CheckpointManager":
    """Orbax's manager; what a save that was killed has left is removed."""
    import orbax.checkpoint as ocp

    class Handler(ocp.StandardCheckpointHandler):
        """Adds the digests when every process has written, before the checkpoint is committed."""

        def finalize(self, directory) -> None:
            super().finalize(directory)
            write_digests(Path(directory))

    registry = ocp.DefaultCheckpointHandlerRegistry()
    registry.add(_ITEM, ocp.args.StandardSave, Handler())
    options = ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.LatestN(keep),
        step_format_fixed_length=8,
        cleanup_tmp_directories=True,
        lightweight_initialize=True,
    )
    return ocp.CheckpointManager(directory, handler_registry=registry, options=options)


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Makes OSErrors of what TensorStore raises where it cannot write: ValueErrors."""
    try:
        yield
    except ValueError as error:
        raise OSError(str(error).splitlines()[0]) from error


def _leaves_by_name(tree: Tree) -> dict[str, jax.Array]:
    """The leaves by their paths: all that is saved, since the target knows the containers."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def describe(leaf: jax.Array | jax.ShapeDtypeStruct | np.ndarray) -> str:
    """Dtype and shape of a leaf."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def difference(saved: Mapping[str, str], wanted: Mapping[str, jax.Array]) -> str:
    """The first leaf in which a saved state and a wanted one differ, in words, or ''."""
    for name, leaf in wanted.items():
        if saved.get(name) != describe(leaf):
            return f"{name} is {saved.get(name, 'absent')} there and {describe(leaf)} here"
    extra = [name for name in saved if name not in wanted]
    return f"{extra[0]} is {saved[extra[0]]} there and absent here" if extra else ""


def _placed(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    """A leaf's shape, dtype and sharding; the sharding it was saved with may not exist here."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _is_worth_reading(record: LogRecord) -> bool:
    """Leaves Orbax's thirty lines a save out of the log."""
    return record.levelno > INFO or "/orbax/checkpoint/" not in record.pathname


def _listed(damaged: dict[int, str]) -> str:
    return "; ".join(f"step {step}, {fault}" for step, fault in damaged.items())
