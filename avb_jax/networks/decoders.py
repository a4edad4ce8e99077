"""Decoders: z [R, D] -> pixel parameters [R, h, w, c] of p(x|z).

Layers compute in `dtype`, where it is given; parameters and outputs have the dtype of z.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from avb_jax.networks.layers import MLP, Convolution, downsampled_sizes, stage_features
from avb_jax.types import Array


class MLPDecoder(nn.Module):
    """`mlp`: dense layers, then one linear map to the pixels."""

    event_shape: tuple[int, int, int]
    width: int
    depth: int
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array) -> Array:
        height, width, channels = self.event_shape
        h = MLP(self.width, self.depth, self.dtype)(z)
        pixels = nn.Dense(height * width * channels, dtype=self.dtype)(h)
        return pixels.astype(z.dtype).reshape(-1, *self.event_shape)


class ConvDecoder(nn.Module):
    """`conv`: a dense layer to at most 8 × 8, then transposed convolutions, doubling each time.

    28, 32 and 64 pixels take two, two and three doublings; a side that is not twice the
    one before it is cropped to size.
    """

    event_shape: tuple[int, int, int]
    width: int
    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array) -> Array:
        height, width, colours = self.event_shape
        sizes = downsampled_sizes(height, width)[::-1]
        features = [stage_features(self.channels, i) for i in range(len(sizes))][::-1]
        of = {"dtype": self.dtype}
        h = nn.gelu(nn.Dense(self.width, **of)(z))
        h = nn.gelu(nn.Dense(sizes[0][0] * sizes[0][1] * features[0], **of)(h))
        h = h.reshape(-1, *sizes[0], features[0])
        for i, ((rows, columns), channels_out) in enumerate(
            zip(sizes[1:], features[1:], strict=True)
        ):
            h = Convolution(channels_out, "double", name=f"ConvTranspose_{i}", **of)(h)
            h = nn.gelu(h)[:, :rows, :columns]
        return Convolution(colours, name="Conv_0", **of)(h).astype(z.dtype)


class PixelScale(nn.Module):
    """Adds one learned log scale per channel: the width of Gaussian or logistic pixels."""

    decoder: nn.Module
    channels: int

    @nn.compact
    def __call__(self, z: Array) -> tuple[Array, Array]:
        log_scale = self.param(
            "log_scale", nn.initializers.constant(math.log(0.1)), (self.channels,)
        )
        # A pixel has 256 levels: nothing below a quarter of one can be told apart. The floor is
        # added, so that a gradient leads away from it.
        floor = jnp.full_like(log_scale, math.log(1.0 / 1024.0))
        return nn.sigmoid(self.decoder(z)), jnp.logaddexp(log_scale, floor)
