"""The networks of a posterior without pixels: a sampler of z, and a critic that knows log p."""

import math
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import zeros

from avb_jax.networks.critics import latent_features
from avb_jax.types import Array, Kernel

INITIAL_BLUR, LEAST_BLUR = 0.3, 0.005  # of the Gaussian that ends the sampler, in units of q's
NARROW, WIDE = 5.0, 1.5  # log of the most that a coordinate may shrink and stretch
LINEAR = 10.0  # nats up to which a gain enters as it is


class Sampler(nn.Module):
    """q(z|x, ε) = N(m + L (ε₁..D e^{a(ε)} + f(ε)), L diag(τ²) Lᵀ) for features h [B, F] of x.

    The stretch a is what funnels are made of, the shift f what bends. The network's output starts
    at zero, so that q starts as the Gaussian guess (m, L).
    """

    width: int
    depth: int

    @nn.compact
    def __call__(self, h: Array | None, mean: Array, scale_tril: Array, noise: Array) -> Kernel:
        dim, dense = mean.shape[-1], partial(nn.Dense, self.width)
        g = dense()(noise)
        if h is not None:
            g = g + dense(use_bias=False)(h)[None]
        for _ in range(self.depth):
            g = g + dense()(nn.gelu(dense()(g) + dense(use_bias=False)(noise)))
        out = nn.Dense(2 * dim, kernel_init=zeros)(nn.gelu(g))
        stretch, shift = jnp.split(out, 2, axis=-1)
        most = jnp.where(stretch < 0.0, NARROW, WIDE)
        stretch = most * jnp.tanh(stretch / most)
        start = math.log((INITIAL_BLUR - LEAST_BLUR) / (1.0 - INITIAL_BLUR))
        blur = self.param("blur", nn.initializers.constant(start), (dim,))
        blur = LEAST_BLUR + (1.0 - LEAST_BLUR) * nn.sigmoid(blur)
        moved = jnp.einsum("bde,sbe->sbd", scale_tril, noise[..., :dim] * jnp.exp(stretch) + shift)
        return Kernel(mean[None] + moved, scale_tril[None] * blur[None, None, None])


def softened(gain: Array) -> Array:
    """As it is up to LINEAR nats on either side, and logarithmic beyond."""
    size = jnp.abs(gain)
    beyond = LINEAR * (1.0 + jnp.log(jnp.maximum(size, LINEAR) / LINEAR))
    return jnp.sign(gain) * jnp.where(size < LINEAR, size, beyond)


class GainCritic(nn.Module):
    """s = w · gain + f(z̃, gain, h): the gain is log p(z) − log r(z), nats, less its mean under q.

    Where q is the posterior, s is the gain; the network has to learn no more than how q differs.
    """

    width: int
    depth: int

    @nn.compact
    def __call__(self, h: Array | None, z: Array, gain: Array) -> Array:
        gain = softened(gain)[..., None]
        g = nn.Dense(self.width)(jnp.concatenate([latent_features(z), 0.3 * gain], axis=-1))
        for _ in range(self.depth):
            inner = nn.Dense(self.width)(g)
            if h is not None:
                inner = inner + nn.Dense(self.width, use_bias=False)(h)[None]
            g = g + nn.gelu(inner)
        weight = self.param("weight", zeros, ())
        return nn.Dense(1, kernel_init=zeros)(g)[..., 0] + weight * gain[..., 0]
