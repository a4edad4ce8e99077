"""Critics: (context [B, ...], z̃ [S, B, D], gain [S, B]) -> s(x, z̃) [S, B], nats.

The context is what the encoder knows of x, its features [B, F], or x itself, [B, h, w, c].
Its trunk is computed once for all the S draws, those of q and of r alike. Output layers
start at zero: a fresh critic says that q is its contrast. The gain is how much better z explains
x than the contrast's mean does, log p(x|z) − log p(x|m) in nats, for a critic that is told it.
Hidden layers compute in `dtype`, where it is given; what they add up to, and s, in z̃'s.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import zeros

from avb_jax.networks.layers import MLP, flatten_context, triangular
from avb_jax.types import Array, Gaussian


def latent_features(z: Array) -> Array:
    """z̃, z̃² − 1 and tanh z̃: what a change of location, scale or tail is linear in."""
    return jnp.concatenate([z, jnp.square(z) - 1.0, jnp.tanh(z)], axis=-1)


class ResidualCritic(nn.Module):
    """`residual`: residual layers over z̃, with the features of x added at each of them.

    Told the gain it is `informed`: where q is the posterior, s is that gain and a quadratic in z̃.
    `conditional=False` leaves x out: `unconditional`, one posterior and no data point.
    """

    width: int
    depth: int
    trunk_width: int
    trunk_depth: int
    conditional: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, context: Array, z: Array, gain: Array | None = None) -> Array:
        inputs = latent_features(z)
        if gain is not None:  # hundreds of nats where z does not explain x at all
            inputs = jnp.concatenate([inputs, jnp.arcsinh(gain)[..., None]], axis=-1)
        h, dense = nn.Dense(self.width)(inputs), partial(nn.Dense, self.width, dtype=self.dtype)
        if self.conditional:
            trunk = MLP(self.trunk_width, self.trunk_depth, self.dtype)
            features = trunk(flatten_context(context))
        for _ in range(self.depth):
            inner = dense()(h)
            if self.conditional:
                inner = inner + dense(use_bias=False)(features)[None]
            h = h + nn.gelu(inner).astype(h.dtype)
        return nn.Dense(1, kernel_init=zeros)(h)[..., 0]


class InnerProductCritic(nn.Module):
    """`inner-product`: ⟨θ(x), s(z̃)⟩ + T_x(x) + T_z(z̃), the paper's network (section 6.2)."""

    width: int
    depth: int
    trunk_width: int
    trunk_depth: int
    dtype: Any = None

    @nn.compact
    def __call__(self, context: Array, z: Array) -> Array:
        of_x = MLP(self.trunk_width, self.trunk_depth, self.dtype)(flatten_context(context))
        of_z = MLP(self.width, self.depth, self.dtype)(latent_features(z))
        theta = nn.Dense(self.width, kernel_init=zeros)(of_x)
        t_x = nn.Dense(1, kernel_init=zeros)(of_x)[..., 0]
        t_z = nn.Dense(1, kernel_init=zeros)(of_z)[..., 0]
        return jnp.einsum("bf,sbf->sb", theta, nn.Dense(self.width)(of_z)) + t_x[None] + t_z


class LearnedContrast(nn.Module):
    """N(m_α(x), C_α(x)) of full covariance: a context, [B, F] or images, -> Gaussian."""

    latent_dim: int
    width: int
    depth: int
    dtype: Any = None

    @nn.compact
    def __call__(self, context: Array) -> Gaussian:
        dim = self.latent_dim
        h = MLP(self.width, self.depth, self.dtype)(flatten_context(context))
        log_scale = nn.Dense(dim, kernel_init=zeros)(h)
        entries = nn.Dense(dim * dim, kernel_init=zeros)(h).reshape(-1, dim, dim)
        return Gaussian(nn.Dense(dim, kernel_init=zeros)(h), triangular(entries, log_scale))
