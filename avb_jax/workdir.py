"""The directory of a run: whose it is, that one process at a time trains there, how it stops."""

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from avb_jax.config import Config, load_config
from avb_jax.files import write_atomically

LOCK = ".lock"


class Preempted(Exception):
    """Training was asked to stop (SIGTERM), and did, once its state was saved."""


def event_shape_path(workdir: Path) -> Path:
    """Where a run notes the shape of its images, so that `load` needs no data."""
    return workdir / "event_shape.txt"


@contextmanager
def claimed(
    workdir: Path, config: Config, event_shape: tuple[int, ...], resume: bool
) -> Iterator[None]:
    """Within it the directory is that of a run of `config`, and no other process trains there.

    Raises:
        ValueError: if it holds another run, something that is no run, or, without
            `resume`, checkpoints of this one; or if another process trains there.
    """
    shape = " ".join(map(str, event_shape))
    _check(workdir, config, shape, resume)  # before anything is made there
    with locked(workdir, "training"):
        _check(workdir, config, shape, resume)  # another process may have come between
        with writing(workdir):
            write_atomically(workdir / "config.json", config.to_json().encode())
            write_atomically(event_shape_path(workdir), shape.encode())
        yield


@contextmanager
def writing(workdir: Path) -> Iterator[None]:
    """Within it the operating system's errors, as of a full disk, are ValueErrors in a sentence."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"workdir was {workdir}, which cannot be written: {error}; what was saved before "
            "stays, and the same command goes on from there"
        ) from error


def _check(workdir: Path, config: Config, shape: str, resume: bool) -> None:
    path, shape_path = workdir / "config.json", event_shape_path(workdir)
    if path.exists():
        differing = load_config(path).same_run_as(config)
        if differing:
            raise ValueError(
                f"workdir was {workdir}, which holds a run with another "
                f"{', '.join(differing)}; choose another --workdir"
            )
        if not resume and any((workdir / "checkpoints").glob("[0-9]*")):
            raise ValueError(
                f"workdir was {workdir}, which holds checkpoints, with resume off; choose "
                "another --workdir, or resume"
            )
    elif workdir.exists() and (not workdir.is_dir() or _holds_files(workdir)):
        raise ValueError(
            f"workdir was {workdir}, which is not empty and holds no run; choose another --workdir"
        )
    if shape_path.exists() and shape_path.read_text() != shape:
        raise ValueError(
            f"dataset has images of shape {shape}, and the run in {workdir} has images of shape "
            f"{shape_path.read_text()}; choose another --workdir"
        )


def _holds_files(workdir: Path) -> bool:
    """Whether there is more than what a start cut short leaves."""
    ours = (LOCK, ".partial")
    return any(not path.name.endswith(ours) for path in workdir.iterdir())


@contextmanager
def locked(workdir: Path, doing: str) -> Iterator[None]:
    """Within it no other process is `doing` the same in `workdir`, which is made if missing.

    A process that dies leaves no lock behind.

    Raises:
        ValueError: if another one is.
    """
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / f"{doing}{LOCK}", "a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise ValueError(
                f"workdir was {workdir}, where process {file.read() or 'unknown'} is {doing}; "
                "wait for it, or choose another --workdir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def sigterm_noticed() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether SIGTERM has come, which no longer ends the process.

    In another thread than the main one, where Python allows no handler, it never has.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        # None: a handler that Python did not install, JAX's for one.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
