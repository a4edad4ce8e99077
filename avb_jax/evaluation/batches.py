"""Evaluation of many images, a batch at a time: its progress is shown, and kept if asked."""

import io
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from avb_jax.evaluation.weights import check_counts
from avb_jax.files import write_atomically
from avb_jax.types import Array

Found = dict[str, np.ndarray]


class Kept:
    """A file of what an unfinished evaluation has found, so that a killed one goes on.

    Args:
        path: the file.
        identity: whatever the numbers depend on; what was kept for another is not used.
    """

    def __init__(self, path: Path, identity: str):
        self.path, self._identity = path, identity
        self.seconds = 0.0  # spent on it before

    def read(self) -> Found:
        """What was found for the first so many images; empty if nothing was."""
        try:
            with open(self.path, "rb") as file, np.load(file) as arrays:
                found = dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return {}
        if str(found.pop(".identity", "")) != self._identity:
            return {}
        self.seconds = float(found.pop(".seconds"))
        return found

    def write(self, found: Found, seconds: float) -> None:
        buffer = io.BytesIO()
        notes = {".identity": self._identity, ".seconds": self.seconds + seconds}
        arrays: dict[str, Any] = {**notes, **found}
        np.savez(buffer, **arrays)
        write_atomically(self.path, buffer.getvalue())


def in_batches(
    function: Callable[[np.ndarray, Any], Mapping[str, Array]],
    images: Any,
    batch_size: int,
    *,
    progress: bool = False,
    kept: Kept | None = None,
) -> Found:
    """function(index [B], x [B, ...]) -> named arrays [B, ...], over all images: [n, ...] each.

    Args:
        function: what it says of a data point may depend on its number, not on the others.
        images: [n, ...]: an array, or what has a length and gives those of an index array [B].
        batch_size: B. The last batch is filled up by repetition, and that is left out again.
        progress: whether to show a bar with images/s and the running means.
        kept: where each batch is kept as soon as it is done, and what it holds is not done again.

    Raises:
        ValueError: if there are no images or `batch_size` is below 1.
    """
    check_counts(images=len(images), batch_size=batch_size)
    found, start = kept.read() if kept else {}, time.perf_counter()
    done = len(next(iter(found.values()), ()))
    with tqdm(total=len(images), initial=done, unit=" images", disable=not progress) as bar:
        for index, valid in padded_batches(len(images), batch_size):
            if index[0] < done:
                continue
            part = {
                name: np.asarray(a)[:valid] for name, a in function(index, images[index]).items()
            }
            found = {
                name: np.concatenate([found[name], a]) if found else a for name, a in part.items()
            }
            if kept:
                kept.write(found, time.perf_counter() - start)
            bar.update(valid)
            bar.set_postfix({n: f"{a.mean():.2f}" for n, a in found.items() if a.ndim == 1})
    return found


def padded_batches(total: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Indices [B] of each batch, the last filled up by repetition, and how many of them count."""
    size = min(batch_size, total)
    for start in range(0, total, size):
        yield np.minimum(np.arange(start, start + size), total - 1), min(size, total - start)
