"""Layers that encoders, decoders and critics share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from avb_jax.types import Array

CONV_FEATURES = (32, 64, 64, 128)


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


def flatten_images(x: Array) -> Array:
    """[B, ...] -> [B, F], centred: pixels in [0, 1] become [-1, 1]."""
    return 2.0 * x.reshape(x.shape[0], -1) - 1.0


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
