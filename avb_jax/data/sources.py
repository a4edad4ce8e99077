"""Named data sets and the user's own files: train, validation and test images in memory."""

import math
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avb_jax.choices import DATA_LOADING, DATASETS
from avb_jax.config import Config
from avb_jax.data import prepared
from avb_jax.data.batches import check_binarization, frozen_random
from avb_jax.data.streams import MappedImages, Stream, map_images

_SPLIT_SEED = 0
_STATIC_SEED = 1


class Split(NamedTuple):
    """Images that are used together.

    Attributes:
        images: [n, height, width, channels], uint8 in [0, 255].
        labels: [n], int32; None where the data has none, or is streamed.
    """

    images: np.ndarray | Stream
    labels: np.ndarray | None = None


class Dataset(NamedTuple):
    """Three splits that never overlap (`four_images` alone has one set of images for all)."""

    name: str
    train: Split
    validation: Split
    test: Split

    @property
    def event_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.train.images.shape[1:]


def load(
    name: str,
    *,
    data_dir: str | None = None,
    binarization: str = "dynamic",
    loading: str = "memory",
    memory_limit_gb: float = 4.0,
    progress: bool = True,
) -> Dataset:
    """Reads a data set into memory, or makes it ready to be read as needed; downloads nothing.

    - `digits`: scikit-learn's 1,797 digits of 8x8 with 17 intensities, shuffled once and for
      all into 1,437 / 180 / 180.
    - `four_images`: the four one-pixel images of 2x2, the synthetic data of the AVB paper
      (Mescheder et al., 2017, section 6.1). There is no other data, so all three splits are
      these four images, with labels 0 to 3.
    - `mnist`, `fashion_mnist`, `binarized_mnist`, `omniglot`, `kmnist`, `cifar10`, `celeb_a`:
      as tensorflow-datasets prepared them in `data_dir`; see `avb_jax.data.prepared`.
    - FILE.npz or FILE.npy: the largest array of the file, [n, height, width] or
      [n, height, width, channels], integers in [0, 255] (an array of 0 and 1 alone is taken as
      binary, and stored as 0 and 255); never unpickled. The last tenth is the test, the tenth
      before it the validation split, in the order of the file.

    Args:
        name: one of DATASETS, or a path that ends in .npz or .npy.
        data_dir: where tensorflow-datasets prepared the data; None for its default directory.
        binarization: one of BINARIZATIONS; "static" draws each pixel here, once, from
            Bernoulli(intensity / 255) with a fixed seed, and stores 0 or 255.
        loading: `memory`; `stream`, where images are read from the disk whenever they are asked
            for, and labels not at all; `auto`, in memory up to `memory_limit_gb`. `digits` and
            `four_images` are always in memory.
        memory_limit_gb: 10^9 bytes of uint8 images.
        progress: show a progress bar where reading takes seconds.

    Raises:
        ValueError: unknown name, binarization or loading, what cannot be streamed, or data that
            are missing, damaged, too few, of another shape, or outside [0, 255].

    Examples:
        >>> load("digits").train.images.shape
        (1437, 8, 8, 1)
    """
    check_binarization(binarization)
    if loading not in DATA_LOADING:
        raise ValueError(f"loading must be one of {', '.join(DATA_LOADING)}, got {loading!r}")
    limit = {"memory": math.inf, "stream": 0.0, "auto": 1e9 * memory_limit_gb}[loading]
    splits = _read(name, data_dir, limit, progress)
    streamed = isinstance(splits[0].images, Stream)
    if loading == "stream" and not streamed:
        raise ValueError(
            f"loading was 'stream' with dataset {name}; allowed are data sets that "
            "tensorflow-datasets prepared, and FILE.npy"
        )
    if streamed and binarization == "static":
        raise ValueError(
            f"binarization was 'static' with dataset {name}, which is streamed; allowed is any "
            "other, or the data in memory"
        )
    if binarization == "static":
        splits = [_fix(split, index) for index, split in enumerate(splits)]
    return Dataset(name, *splits)


def load_for(config: Config) -> Dataset:
    """The data set of a config, as it wants it loaded; raises as `load` does."""
    return load(
        config.dataset,
        data_dir=config.data_dir,
        binarization=config.binarization,
        loading=config.data_loading,
        memory_limit_gb=config.memory_limit_gb,
    )


def _read(name: str, data_dir: str | None, memory_limit: float, progress: bool) -> list[Split]:
    if name == "digits":
        return _digits()
    if name == "four_images":
        return _four_images()
    if name in prepared.SPLITS:
        return [Split(*pair) for pair in prepared.read(name, data_dir, progress, memory_limit)]
    if Path(name).suffix in (".npz", ".npy"):
        return _own(name, memory_limit)
    raise ValueError(
        f"dataset must be one of {', '.join(DATASETS)}, or a FILE.npz or FILE.npy, got {name!r}"
    )


def _fix(split: Split, index: int) -> Split:
    assert isinstance(split.images, np.ndarray)  # what is streamed was refused
    uniform = frozen_random(_STATIC_SEED, index).randint(0, 255, split.images.shape, np.uint8)
    return split._replace(images=np.where(uniform < split.images, np.uint8(255), np.uint8(0)))


def _digits() -> list[Split]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    order = frozen_random(_SPLIT_SEED).permutation(len(images))
    parts = np.split(order, [len(order) - 360, len(order) - 180])
    return [Split(images[part], digits.target[part].astype(np.int32)) for part in parts]


def _four_images() -> list[Split]:
    images = (255 * np.eye(4, dtype=np.uint8)).reshape(4, 2, 2, 1)
    return [Split(images, np.arange(4, dtype=np.int32))] * 3


def _own(path: str, memory_limit: float) -> list[Split]:
    streamed = Path(path).suffix == ".npy" and _size(path) > memory_limit
    images = map_images(path) if streamed else validate_images(_largest_array(path), path)
    tenth = len(images) // 10
    if tenth == 0:
        raise ValueError(
            f"dataset {path} must hold at least 10 images, to be split into train, validation "
            f"and test, got {len(images)}"
        )
    ends = (0, len(images) - 2 * tenth, len(images) - tenth, len(images))
    if isinstance(images, MappedImages):
        return [Split(images.cut(start, end)) for start, end in pairwise(ends)]
    return [Split(images[start:end]) for start, end in pairwise(ends)]


def _size(path: str) -> int:
    return Path(path).stat().st_size if Path(path).is_file() else 0


def _largest_array(path: str) -> np.ndarray:
    if not Path(path).is_file():
        raise ValueError(f"dataset {path} must be a file, and there is none of this name")
    try:
        # NumPy leaves a damaged file open that it opened itself.
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            members = [content[name] for name in content.files]
        return max((a for a in members if isinstance(a, np.ndarray)), key=lambda a: a.size)
    except Exception as error:  # a damaged header or zip file raises almost anything
        raise ValueError(
            f"dataset {path} must hold plain arrays in NumPy's format, and it is damaged, of "
            "another format, larger than memory, or holds Python objects, which are never unpickled"
        ) from error


def validate_images(images: np.ndarray, source: str) -> np.ndarray:
    """The same images as uint8, if they are images.

    Args:
        images: [n, height, width] or [n, height, width, channels], with 1 or 3 channels; of
            any type of number, all integers in [0, 255]. An array of 0 and 1 alone is binary
            and becomes 0 and 255.
        source: what to call them in an error.

    Returns:
        [n, height, width, channels], uint8 and contiguous.

    Raises:
        ValueError: another shape or type, or a value that is not an integer in [0, 255].
    """
    if images.ndim not in (3, 4) or images.size == 0 or (*images.shape, 1)[3] not in (1, 3):
        raise ValueError(
            f"images of {source} must have the shape [n, height, width] or "
            f"[n, height, width, channels] with 1 or 3 channels, got {list(images.shape)}"
        )
    if images.dtype.kind not in "buif":
        raise ValueError(f"images of {source} must be uint8, got {images.dtype}")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 255):  # written so that NaN fails too
        raise ValueError(f"images of {source} must lie in [0, 255], got values in [{low}, {high}]")
    pixels = np.ascontiguousarray(images, np.uint8)
    if (pixels != images).any():
        raise ValueError(
            f"images of {source} must be integers in [0, 255] (round 255 times those in [0, 1]), "
            f"got fractions between {low} and {high}"
        )
    if high == 1:
        pixels = pixels * np.uint8(255)
    return pixels.reshape(*pixels.shape[:3], -1)
