"""Images that are never in memory as a whole, and worker processes that read batches ahead."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from absl import flags, logging

from avb_jax.data.batches import Batches

_BLOCK = 10_000  # images looked at together
_AHEAD = 16  # steps, read by a thread or waiting in a worker's queue


class Source(Protocol):
    """What is indexed by a whole number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Stream:
    """Images [n, height, width, channels], uint8, each read, or made, when it is asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, source: Source, transform: Callable[[Any], np.ndarray]):
        """
        Args:
            source: what the images are made of; `__getitems__(rows)`, where it has that, gives
                several at once. Worker processes get a pickled copy.
            transform: one of its items -> [height, width, channels], uint8.
        """
        self._source, self._transform = source, transform
        self.shape = (len(source), *transform(source[0]).shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Of all images, if they were in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """The images of a slice, or of whole numbers [...], as an array [..., h, w, c]."""
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        rows = np.asarray(index)
        images = np.empty((rows.size, *self.shape[1:]), np.uint8)
        for image, item in zip(images, self._items(rows.ravel().tolist()), strict=True):
            image[:] = self._transform(item)
        return images.reshape(*rows.shape, *self.shape[1:])

    def _items(self, rows: list[int]) -> Sequence[Any]:
        if hasattr(self._source, "__getitems__"):
            return self._source.__getitems__(rows)
        return [self._source[row] for row in rows]


class _MappedRows:
    """Rows start, …, end − 1 of a .npy file, which the system reads where they are looked at."""

    def __init__(self, path: str, start: int, end: int | None):
        self._given = (path, start, end)
        self._rows = np.load(path, mmap_mode="r", allow_pickle=False)[start:end]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._rows[index]

    def __reduce__(self):
        return _MappedRows, self._given  # the file's name, not what is in it


class MappedImages(Stream):
    """The images of a .npy file, or some of them."""

    def __init__(self, path: str, scale: int, start: int = 0, end: int | None = None):
        self._given = (path, scale)
        super().__init__(_MappedRows(path, start, end), partial(_pixels, scale))

    def cut(self, start: int, end: int) -> "MappedImages":
        """Images start, …, end − 1 of the whole file."""
        return MappedImages(*self._given, start, end)


def map_images(path: str) -> MappedImages:
    """The images of a .npy file, left on the disk.

    Raises:
        ValueError: damaged, of another shape than images have, or not uint8.
    """
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header raises almost anything
        raise ValueError(
            f"dataset {path} must hold a plain array in NumPy's format, and it is damaged, or of "
            "another format"
        ) from error
    if rows.dtype != np.uint8 or rows.ndim not in (3, 4) or (*rows.shape, 1)[3] not in (1, 3):
        raise ValueError(
            f"images of {path}, to be streamed, must be uint8 of the shape [n, height, width] or "
            f"[n, height, width, channels] with 1 or 3 channels, got {rows.dtype}{list(rows.shape)}"
        )
    blocks = (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))
    binary = not any(block.max(initial=0) > 1 for block in blocks)
    return MappedImages(path, 255 if binary else 1)


def _pixels(scale: int, image: np.ndarray) -> np.ndarray:
    """An image with a channel axis."""
    return image.reshape(*image.shape[:2], -1) * np.uint8(scale)


class _Steps:
    """The batch of each step from `first` on."""

    def __init__(self, batches: Batches, first: int):
        self._batches, self._first = batches, first

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> np.ndarray:
        return self._batches.take(self._first + index, 1)[0]


def _say_errors_alone(*_: int) -> None:
    """In a worker: what the readers advise, they have advised already."""
    logging.set_verbosity(logging.ERROR)


def read_ahead(
    batches: Batches, step: int, steps_per_call: int, workers: int
) -> Iterator[np.ndarray]:
    """The batches of each call from `step` on, without end, read by Grain while others are used.

    They are those of `batches.take`: all there is to remember of a position is the step.

    Args:
        batches: of images of any kind.
        step: the first one.
        steps_per_call: K.
        workers: processes that read; 0: threads of this one.

    Yields:
        [K, B, height, width, channels], uint8; of this part's rows alone.
    """
    import grain  # here, so that importing the package stays quick

    steps = grain.MapDataset.source(_Steps(batches, step))
    threads = grain.ReadOptions(num_threads=1 if workers else 4, prefetch_buffer_size=_AHEAD)
    ahead = steps.to_iter_dataset(threads)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # no command line here, and Grain asks for its flags
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=_AHEAD)
        ahead = ahead.mp_prefetch(options, worker_init_fn=_say_errors_alone)
    return iter(ahead.batch(steps_per_call))
