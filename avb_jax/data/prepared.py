"""Data sets that tensorflow-datasets (TFDS) prepared on disk, read without TensorFlow.

Nothing is downloaded here: preparing needs TensorFlow, reading does not. The decoded arrays
are cached under `$XDG_CACHE_HOME/avb_jax` (`~/.cache/avb_jax`), so that decoding, seconds for
MNIST and minutes for CelebA, is paid once.

What is read, beside the images as they are:

- `binarized_mnist` (Larochelle and Murray, 2011): {0, 1} becomes {0, 255}; no labels.
- `omniglot`: ink is 255 on 0, one channel, 105x105 averaged down to 28x28, as in the usual
  benchmark of Burda et al. (2016); but the train and test splits are those of the data set
  (background and evaluation alphabets), not theirs of 24,345 and 8,070, so that likelihoods
  do not compare with published ones.
- `celeb_a`: the central 140x140 averaged down to 64x64 (Tolstikhin et al., 2018); no labels.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from avb_jax.data.streams import Stream

# Train, validation and test in TFDS's slicing language, disjoint.
SPLITS: dict[str, tuple[str, str, str]] = {
    "mnist": ("train[:50000]", "train[50000:]", "test"),
    "fashion_mnist": ("train[:50000]", "train[50000:]", "test"),
    "binarized_mnist": ("train", "validation", "test"),
    "omniglot": ("train[:90%]", "train[90%:]", "test"),
    "kmnist": ("train[:50000]", "train[50000:]", "test"),
    "cifar10": ("train[:45000]", "train[45000:]", "test"),
    "celeb_a": ("train", "validation", "test"),
}

# Images [n, height, width, channels], and labels [n].
Pair = tuple[np.ndarray | Stream, np.ndarray | None]
Arrays = tuple[np.ndarray, np.ndarray | None]

_CHUNK = 1000
_FORMAT = 2  # of the cache; to be raised when what is read changes


def read(name: str, data_dir: str | None, progress: bool, memory_limit: float) -> Sequence[Pair]:
    """Images (uint8) and labels (int32 or None) of the three splits.

    Args:
        name: a key of SPLITS.
        data_dir: TFDS's data directory; None for its default.
        progress: show a progress bar while decoding.
        memory_limit: bytes of images that are kept in memory; of more, none is.

    Raises:
        ValueError: the data set is not prepared in `data_dir`, or cannot be read there.
    """
    import tensorflow_datasets as tfds

    root = os.path.expanduser(data_dir) if data_dir else None
    with _quiet():
        try:
            builder = tfds.builder(name, data_dir=root)
            # Asked first: without this, missing data costs minutes of network retries.
            if builder.is_prepared():
                streams = _streams(name, builder)
                if sum(images.nbytes for images, _ in streams) > memory_limit:
                    return streams
                return _cached(name, builder, progress)
        except Exception as error:  # TFDS passes on whatever its readers raise
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise ValueError(
                f"dataset {name} in {root or 'the default data_dir'} must be complete and in the "
                f"array_record format, and reading it failed ({reason})"
            ) from error
    raise ValueError(_not_prepared(name, Path(builder.data_dir)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS's warnings (a missing file, a slower decoder) would only blur the one sentence."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _not_prepared(name: str, directory: Path) -> str:
    prepare = (
        f"import tensorflow_datasets as tfds; tfds.builder('{name}', "
        f"data_dir='{directory.parents[1]}').download_and_prepare(file_format='array_record')"
    )
    return (
        f"dataset {name} is not prepared in {directory}: set data_dir to the directory that holds "
        "it, or prepare it once, with a network and TensorFlow (pip install tensorflow), by "
        f'python -c "{prepare}"'
    )


def _streams(name: str, builder: Any) -> list[Pair]:
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    image = partial(_image, name, builder.info.features["image"])
    return [
        (Stream(builder.as_data_source(split, deserialize_method=raw), image), None)
        for split in SPLITS[name]
    ]


def _image(name: str, feature: Any, record: bytes) -> np.ndarray:
    """The image of a record: TFDS's own way through all its features takes twice as long."""
    from tensorflow_datasets.proto import tf_example_pb2

    encoded = tf_example_pb2.Example.FromString(record).features.feature["image"]
    image = feature.decode_example_np(encoded.bytes_list.value[0])
    return _TRANSFORMS.get(name, lambda image: image)(image)


def _cached(name: str, builder: Any, progress: bool) -> list[Arrays]:
    cache = _cache_path(name, Path(builder.data_dir))
    pairs = _from_cache(cache)
    if pairs is None:
        pairs = _decode(name, builder, progress)
        _to_cache(cache, pairs)
    return pairs


def _decode(name: str, builder: Any, progress: bool) -> list[Arrays]:
    from tqdm import tqdm

    sources = [builder.as_data_source(split) for split in SPLITS[name]]
    transform = _TRANSFORMS.get(name, lambda image: image)
    total = sum(len(source) for source in sources)
    with tqdm(total=total, desc=f"reading {name}", unit="image", disable=not progress) as bar:
        return [_decode_split(source, transform, bar.update) for source in sources]


def _decode_split(
    source: Any, transform: Callable[[np.ndarray], np.ndarray], update: Callable
) -> Arrays:
    size, first = len(source), source[0]
    images = np.empty((size, *transform(first["image"]).shape), np.uint8)
    labels = np.empty(size, np.int32) if "label" in first else None
    for start in range(0, size, _CHUNK):
        rows = range(start, min(start + _CHUNK, size))
        # All at once is twice as fast as one by one.
        for row, example in zip(rows, source.__getitems__(rows), strict=True):
            images[row] = transform(example["image"])
            if labels is not None:
                labels[row] = example["label"]
        update(len(rows))
    return images, labels


def _average_down(image: np.ndarray, crop: int, size: int) -> np.ndarray:
    """The central crop x crop pixels of [height, width, channels], as size x size."""
    from PIL import Image

    top, left = ((side - crop) // 2 for side in image.shape[:2])
    centre = image[top : top + crop, left : left + crop]
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(centre, -1, 0)]
    return np.stack([np.asarray(p.resize((size, size), Image.Resampling.BOX)) for p in planes], -1)


_TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "binarized_mnist": lambda image: image * np.uint8(255),
    "omniglot": lambda image: _average_down(255 - image[..., :1], 105, 28),
    "celeb_a": lambda image: _average_down(image, 140, 64),
}


def _cache_path(name: str, directory: Path) -> Path:
    """One for each content of a data directory, told by its files' names, sizes and times."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    content = (_FORMAT, SPLITS[name], str(directory.resolve()), stats)
    identity = hashlib.sha256(repr(content).encode())
    return cache_directory() / f"{name}-{directory.name}-{identity.hexdigest()[:16]}.npz"


def cache_directory() -> Path:
    """The user's cache directory of this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avb_jax"


def _from_cache(path: Path) -> list[Arrays] | None:
    """What `_to_cache` wrote; None where it is absent or damaged (zip files carry checksums)."""
    try:
        # NumPy leaves a damaged file open that it opened itself.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [(arrays[f"images{i}"], arrays.get(f"labels{i}")) for i in range(3)]
    except Exception:  # a damaged header or zip file raises almost anything
        return None


def _to_cache(path: Path, pairs: list[Arrays]) -> None:
    """Atomic: written beside, then renamed. Without room or rights there is no cache."""
    arrays: dict[str, Any] = {f"images{i}": images for i, (images, _) in enumerate(pairs)}
    arrays |= {f"labels{i}": labels for i, (_, labels) in enumerate(pairs) if labels is not None}
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = file.name
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
