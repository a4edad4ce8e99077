"""Layers that encoders, decoders and critics share."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from avb_jax.types import Array

WIDENING = (1, 2, 2, 4)  # features of each stage of convolutions, in those of the first
LARGE = 2**28  # multiplications of a convolution that is worth more than one thread
PART = 16  # images whose share of a kernel's gradient is taken at once on CPUs


class MLP(nn.Module):
    """`depth` dense layers of `width` with gelu after each: [..., F] -> [..., width].

    Computed in `dtype`, where that is not the input's, and returned in the input's.
    """

    width: int
    depth: int
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        h = inputs
        for _ in range(self.depth):
            h = nn.gelu(nn.Dense(self.width, dtype=self.dtype)(h))
        return h.astype(inputs.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(h: Array, kernel: Array, padding: tuple[int, int]) -> Array:
    """A convolution of stride 1: h [R, rows, columns, F], kernel [k, l, F, G] -> [R, ..., G].

    Its pull-backs are such convolutions again, in the one layout of which XLA is sure to use the
    fast form on CPUs: within `lax.scan` it does not look for another, and takes thirty times as
    long for the gradient of its own.
    """
    (top, side), layout = padding, ("NHWC", "HWIO", "NHWC")
    # Large images that keep their rows get one more, which is dropped: XLA leaves those that do
    # not grow to a library that runs on one thread.
    large = h[..., 0].size * kernel.size > LARGE
    extra = int(_on_cpu() and large and len(kernel) == 2 * top + 1)
    sides = ((top, top + extra), (side, side))
    grown = lax.conv_general_dilated(h, kernel, (1, 1), sides, dimension_numbers=layout)
    return grown[:, : grown.shape[1] - extra]


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _pull_convolution(padding: tuple[int, int], operands: tuple[Array, Array], g: Array):
    h, kernel = operands
    beyond = _beyond(kernel.shape, padding)
    of_h = convolve(g, kernel[::-1, ::-1].swapaxes(2, 3), beyond)
    # Of many images the other is one convolution by a kernel that no cache holds: on CPUs two to
    # three times as slow as part by part.
    part = min(len(h), PART) if _on_cpu() else len(h)
    pad = ((0, -len(h) % part), (0, 0), (0, 0), (0, 0))
    # Each part has images from all over the batch, and so of all devices that it is split among.
    h, g = (jnp.pad(a, pad).reshape(part, -1, *a.shape[1:]) for a in (h, g))

    def add(total: Array, i: Array) -> tuple[Array, None]:
        part_h, part_g = (lax.dynamic_index_in_dim(a, i, axis=1, keepdims=False) for a in (h, g))
        return total + _kernel_gradient(part_h, part_g, kernel.shape[:2], padding), None

    return of_h, lax.scan(add, jnp.zeros_like(kernel), jnp.arange(h.shape[1]))[0]


def _beyond(sides: Sequence[int], padding: tuple[int, int]) -> tuple[int, int]:
    """The padding with which a convolution's gradient is one of the turned kernel."""
    return sides[0] - 1 - padding[0], sides[1] - 1 - padding[1]


def _kernel_gradient(h: Array, g: Array, sides: Sequence[int], padding: tuple[int, int]) -> Array:
    """Of h [R, ..., F] and the gradient g [R, ..., G] of what it became: [k, l, F, G].

    Images are the features that are summed over. Whichever of F and G is larger stays in place.
    """
    if h.shape[-1] <= g.shape[-1]:
        of_kernel = convolve(h.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), padding)
        return of_kernel.transpose(1, 2, 0, 3)
    of_kernel = convolve(g.transpose(3, 1, 2, 0), h.transpose(1, 2, 0, 3), _beyond(sides, padding))
    return of_kernel[:, ::-1, ::-1].transpose(1, 2, 3, 0)


convolve.defvjp(lambda h, kernel, padding: (convolve(h, kernel, padding), (h, kernel)),
                _pull_convolution)  # fmt: skip


class Convolution(nn.Module):
    """A convolution, 5 × 5: [R, h, w, F] -> [R, h, w, features]; halved, rounding up, or doubled.

    `resize` doubles by a transposed convolution of stride 2, or halves by one of that stride. Each
    is done as a 3 × 3 convolution of 2 × 2 cells of pixels (Shi et al., "Real-Time Single Image
    and Video Super-Resolution", CVPR 2016): nothing is dilated or strided, which is slow on CPUs.
    """

    features: int
    resize: str = "same"
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array) -> Array:
        shape = (5, 5, h.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)
        h, kernel, bias = nn.dtypes.promote_dtype(h, kernel, bias, dtype=self.dtype)
        form = {"same": _same, "double": _double, "halve": _halve}[self.resize]
        return form(h, kernel) + bias[None, None, None]


def _same(h: Array, kernel: Array) -> Array:
    (rows, columns), (inputs, features) = h.shape[1:3], kernel.shape[2:]
    if rows % 2 or columns % 2:
        return convolve(h, kernel, (2, 2))
    # In cells of 2 × 2 pixels too: the few features next to an image are four times as many.
    shifts = [((a, 1 - a), (b, 1 - b), (0, 0), (0, 0)) for a in range(2) for b in range(2)]
    taps = jnp.stack([jnp.pad(kernel, shift) for shift in shifts], axis=-2)
    taps = _cell_taps(taps.reshape(6, 6, inputs, 4 * features))
    return _pixels(convolve(_cells(h), taps, (1, 1)))


def _cells(h: Array) -> Array:
    """2 × 2 pixels as the features of one: [R, 2 h, 2 w, F] -> [R, h, w, 4 F]."""
    _, rows, columns, features = h.shape
    cells = h.reshape(-1, rows // 2, 2, columns // 2, 2, features).swapaxes(2, 3)
    return cells.reshape(-1, rows // 2, columns // 2, 4 * features)


def _pixels(cells: Array) -> Array:
    """The inverse of `_cells`."""
    _, rows, columns, features = cells.shape
    pixels = cells.reshape(-1, rows, columns, 2, 2, features // 4).swapaxes(2, 3)
    return pixels.reshape(-1, 2 * rows, 2 * columns, features // 4)


def _cell_taps(taps: Array) -> Array:
    """A kernel over pixels as one over their cells: [6, 6, F, G] -> [3, 3, 4 F, G]."""
    _, _, inputs, features = taps.shape
    taps = taps.reshape(3, 2, 3, 2, inputs, features).swapaxes(1, 2)
    return taps.reshape(3, 3, 4 * inputs, features)


def _double(h: Array, kernel: Array) -> Array:
    inputs, features = kernel.shape[2:]
    taps = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    taps = taps.reshape(3, 2, 3, 2, inputs, features)[:, ::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(3, 3, inputs, 4 * features)
    return _pixels(convolve(h, taps, (1, 1)))


def _halve(h: Array, kernel: Array) -> Array:
    sides = h.shape[1:3]
    h = jnp.pad(h, ((0, 0), *((0, side % 2) for side in sides), (0, 0)))
    # "SAME" centres the window on the first pixel of a cell where a side is odd, else between.
    missing = ((1 - side % 2, side % 2) for side in sides)
    taps = _cell_taps(jnp.pad(kernel, (*missing, (0, 0), (0, 0))))
    return convolve(_cells(h), taps, (1, 1))


class Convolutions(nn.Module):
    """Strided convolutions, then a dense layer of `width`: images [B, h, w, c] -> [B, width]."""

    width: int
    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = 2.0 * x - 1.0
        for stage in range(max(len(downsampled_sizes(*x.shape[1:3])) - 1, 1)):
            features = stage_features(self.channels, stage)
            h = nn.gelu(Convolution(features, "halve", dtype=self.dtype)(h))
        return nn.gelu(nn.Dense(self.width, dtype=self.dtype)(_flat(h))).astype(x.dtype)


def stage_features(channels: int, stage: int) -> int:
    """Features of a stage of convolutions, counted from the image."""
    return channels * WIDENING[min(stage, len(WIDENING) - 1)]


def _flat(h: Array) -> Array:
    return h.reshape(h.shape[0], -1)


def flatten_images(x: Array) -> Array:
    """[B, ...] -> [B, F], centred: pixels in [0, 1] become [-1, 1]."""
    return 2.0 * _flat(x) - 1.0


def flatten_context(context: Array) -> Array:
    """Features [B, F] as they are, images [B, ...] flattened and centred."""
    return context if context.ndim == 2 else flatten_images(context)


def downsampled_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes from the image's own down to at most 8 × 8, halved (rounding up) each time."""
    sizes = [(height, width)]
    while max(height, width) > 8:
        height, width = -(-height // 2), -(-width // 2)
        sizes.append((height, width))
    return sizes


def triangular(entries: Array, log_diagonal: Array) -> Array:
    """Lower-triangular matrices: strict lower part of entries [B, D, D], exp on the diagonal."""
    return jnp.tril(entries, -1) + jax.vmap(jnp.diag)(jnp.exp(log_diagonal))
