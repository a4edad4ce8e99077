"""The processes of one run: how they join, who writes, what they agree on, and losing one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np

HEARTBEAT_SECONDS = 30
# The first process evaluates while the others wait for it to leave.
LEAVE_SECONDS = 7 * 24 * 3600
_MESSAGE_BYTES = 4096


class PeerLost(Exception):
    """Another process of the run is gone: what needs all of them cannot go on."""


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Makes this process one of several; before anything else is asked of JAX.

    What is unset is detected, where JAX knows how: under SLURM, Open MPI, on GKE and Cloud TPU.

    Args:
        coordinator_address: HOST:PORT of the process with id 0, seen by all.
        num_processes: how many there are.
        process_id: which one this is, from 0.

    Raises:
        ValueError: if something is unset and cannot be detected, or the others do not come.
    """
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"distributed was given with coordinator_address {coordinator_address}, num_processes "
            f"{num_processes} and process_id {process_id}; needed are all three, or a cluster "
            f"where JAX detects them: {str(error).splitlines()[0]}"
        ) from None


def is_first() -> bool:
    """Whether this process writes metrics, figures and tables: the one with id 0."""
    return jax.process_index() == 0


def first_does(action: Callable[[], None]) -> None:
    """The first process does it while the others wait; what it complains of, all complain of.

    Raises:
        ValueError: the first process's, in every process.
    """
    complaint = ""
    if is_first():
        try:
            action()
        except ValueError as error:
            complaint = str(error)
    complaint = _first_says(complaint)
    if complaint:
        raise ValueError(complaint)


def _first_says(message: str) -> str:
    if jax.process_count() == 1:
        return message
    from jax.experimental import multihost_utils

    data = np.zeros(_MESSAGE_BYTES, np.uint8)
    encoded = np.frombuffer(message.encode()[:_MESSAGE_BYTES], np.uint8)
    data[: len(encoded)] = encoded
    said = np.asarray(multihost_utils.broadcast_one_to_all(data))
    return said.tobytes().rstrip(b"\0").decode(errors="replace")


def any_says(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether any process has it set; all ask at the same point of their work."""
    if jax.process_count() == 1:
        return flags
    from jax.experimental import multihost_utils

    return tuple(multihost_utils.process_allgather(np.array(flags)).any(axis=0).tolist())


@contextmanager
def all_needed() -> Iterator[None]:
    """Turns what a collective raises when a process is gone into one sentence.

    Raises:
        PeerLost: in place of the runtime's own error, where there are several processes.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        signs = ("Gloo", "NCCL", "RCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")
        if jax.process_count() == 1 or not any(sign in str(error) for sign in signs):
            raise
        raise PeerLost(
            f"another of the {jax.process_count()} processes is gone "
            f"({str(error).splitlines()[0][:200]}); start all of them again, and they go on from "
            "the last checkpoint"
        ) from None
