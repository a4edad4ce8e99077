"""Binarisation on the device, and shuffled batches that are a function of (seed, step)."""

import math
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.choices import BINARIZATIONS
from avb_jax.types import Array, Key


class Images(Protocol):
    """An array of images [n, height, width, channels], uint8, or what is indexed as one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


def check_binarization(binarization: str) -> None:
    """Raises ValueError unless `binarization` is one of BINARIZATIONS."""
    if binarization not in BINARIZATIONS:
        raise ValueError(
            f"binarization must be one of {', '.join(BINARIZATIONS)}, got {binarization!r}"
        )


def binarize(key: Key, images: Array, binarization: str) -> Array:
    """Intensities as what the likelihood models; pure, for use inside `jax.jit`.

    Args:
        key: used by "dynamic" alone.
        images: [..., height, width, channels], uint8.
        binarization: "dynamic" draws every pixel anew from Bernoulli(intensity / 255) (Burda et
            al., 2016); "threshold" and "static" give 1 above 127 ("static" images were drawn
            once, by `load`); "none" keeps intensity / 255.

    Returns:
        The same shape, float32: in {0, 1}, or in [0, 1] for "none".

    Raises:
        ValueError: unknown binarization, or images that are not uint8.
    """
    check_binarization(binarization)
    if images.dtype != jnp.uint8:
        raise ValueError(f"images must be uint8 to be binarized, got {images.dtype}")
    if binarization == "none":
        return images.astype(jnp.float32) / 255
    if binarization != "dynamic":
        return (images > 127).astype(jnp.float32)
    # P(1) is v / 255 exactly for v = 0 and 255, and within 2^-17 (rounding of 16 bits) between.
    bits = _random_uint16(key, images.shape).astype(jnp.uint32)
    return (bits * 255 + 127 < images.astype(jnp.uint32) * 65536).astype(jnp.float32)


@partial(jax.jit, static_argnames="binarization")
def _binarize_each(key: Key, index: Array, images: Array, binarization: str) -> Array:
    def one(i: Array, image: Array) -> Array:
        return binarize(jax.random.fold_in(key, i), image, binarization)

    return jax.vmap(one)(index, images)


class Binarized:
    """Images [n, height, width, channels] as the model sees them, binarised when asked for.

    Image i draws from fold_in(key, i), so that it is the same in any batch; memory is that of
    the batch. `images[index]`, by a slice or whole numbers [B], is float32 [B, ...].
    """

    def __init__(self, key: Key, images: Images, binarization: str):
        self._key, self._images, self._binarization = key, images, binarization

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: slice | np.ndarray) -> Array:
        chosen = np.arange(len(self))[index]
        return _binarize_each(self._key, chosen, self._images[chosen], self._binarization)


def _random_uint16(key: Key, shape: tuple[int, ...]) -> Array:
    """Random bits; both halves of each word that the generator makes, for half the time."""
    batch, event = shape[:-3], shape[-3:]
    size = math.prod(event)
    words = jax.random.bits(key, (*batch, (size + 1) // 2), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
    return halves.reshape(*batch, -1)[..., :size].reshape(shape)


def frozen_random(*seed: int) -> np.random.RandomState:
    """A generator whose stream NumPy keeps the same in every version."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))


class Batches:
    """Shuffled batches without state: those of a step depend on (seed, step) alone.

    Every epoch is a fresh permutation drawn from (seed, epoch) and holds each image once;
    epochs follow one another without a gap, so that a batch may end one and begin the next.
    """

    def __init__(self, images: Images, batch_size: int, seed: int, part: int = 0, parts: int = 1):
        """
        Args:
            images: [n, height, width, channels], uint8: an array, or what is indexed as one.
            batch_size: B, at most n.
            seed: 0 or more.
            part: which part of every batch to take, from 0.
            parts: into how many equal parts, by rows, the processes divide a batch.

        Raises:
            ValueError: a batch size outside [1, n], or a negative seed.
        """
        if not 1 <= batch_size <= len(images):
            raise ValueError(
                f"batch_size must be at least 1 and at most {len(images)}, the number of images, "
                f"got {batch_size}"
            )
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        rows = batch_size // parts
        self._rows = slice(part * rows, (part + 1) * rows)
        self._latest: tuple[int, np.ndarray] | None = None

    @property
    def in_memory(self) -> bool:
        """Whether a batch costs no reading."""
        return isinstance(self._images, np.ndarray)

    def take(self, step: int, num_steps: int) -> np.ndarray:
        """The batches of steps step, ..., step + num_steps - 1.

        Returns:
            [num_steps, B, height, width, channels], uint8; of this part's rows alone.
        """
        total = len(self._images)
        start, stop = step * self._batch_size, (step + num_steps) * self._batch_size
        first, last = start // total, (stop - 1) // total
        order = np.concatenate([self._permutation(epoch) for epoch in range(first, last + 1)])
        chosen = order[start - first * total : stop - first * total].reshape(num_steps, -1)
        return self._images[chosen[:, self._rows]]

    def _permutation(self, epoch: int) -> np.ndarray:
        # The latest is kept: to draw it again at every call costs as much as a short step.
        latest = self._latest
        if latest is None or latest[0] != epoch:
            order = frozen_random(self._seed, epoch).permutation(len(self._images))
            self._latest = latest = (epoch, order)
        return latest[1]
