"""Normalising flows: a contrast that takes q's own shape, and an explicit posterior."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, logsumexp, ndtri

from avb_jax import inverse_flow
from avb_jax.densities import LOG_2PI
from avb_jax.networks.encoders import Trunk
from avb_jax.networks.layers import MLP, flatten_context
from avb_jax.types import Array, Autoregression, Encoding, Flow, Key, ScoreFn

LOG_TINY = -80.0  # the least log-probability whose exponential float32 still holds
zeros = nn.initializers.zeros_init()
PER_DIMENSION = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}


class MixtureFlow(nn.Module):
    """u_d = Φ⁻¹(F_d(z_d | z_<d, context)): (context, z [S, B, D]) -> (u [S, B, D], log r [S, B]).

    F_d is the distribution function of a mixture of Gaussians whose weights, means and scales
    are an MLP's, one for each d. If z ~ r then u ~ N(0, I), and log r(z) = Σ_d log F_d′, nats:
    the density is that of Uria, Murray and Larochelle, "RNADE", NIPS 2013, and the map an
    autoregressive flow (Papamakarios et al., JMLR 2021, section 3.1). It is exact for mixtures
    of Gaussians and for any chain of conditional Gaussians that the MLPs can follow.

    The context is [B, F] or images, or None for one density alone.
    """

    width: int = 64
    depth: int = 2
    components: int = 8
    trunk_width: int = 256
    trunk_depth: int = 2

    @nn.compact
    def __call__(self, context: Array | None, z: Array) -> tuple[Array, Array]:
        weight, mean, log_scale = jnp.split(self._mixtures(context, z), 3, axis=-1)
        log_weight = jax.nn.log_softmax(weight)
        y = (z[..., None] - mean) * jnp.exp(-log_scale)
        log_normal = -0.5 * (jnp.square(y) + LOG_2PI) - log_scale
        below = logsumexp(log_weight + log_ndtr(y), axis=-1)
        above = logsumexp(log_weight + log_ndtr(-y), axis=-1)
        # The smaller of the two tails keeps its digits.
        tail = ndtri(jnp.exp(jnp.maximum(jnp.minimum(below, above), LOG_TINY)))
        log_density = jnp.sum(logsumexp(log_weight + log_normal, axis=-1), axis=-1)
        return jnp.where(below < above, tail, -tail), log_density

    def _mixtures(self, context: Array | None, z: Array) -> Array:
        """Logits, means and log-scales of each dimension's mixture: [S, B, D, 3 K]."""
        dim, count = z.shape[-1], self.components
        dense = nn.vmap(nn.Dense, **PER_DIMENSION, in_axes=0)
        past = z[None] * jnp.tril(jnp.ones((dim, dim), z.dtype), -1)[:, None, None]
        h = dense(self.width)(past)  # [D, S, B, width]: the networks first, for speed
        if context is not None:
            features = MLP(self.trunk_width, self.trunk_depth)(flatten_context(context))
            shared = nn.vmap(nn.Dense, **PER_DIMENSION, in_axes=None, axis_size=dim)
            h = h + shared(self.width, use_bias=False)(features)[:, None]
        h = nn.gelu(h)
        for _ in range(self.depth):
            h = h + nn.gelu(dense(self.width)(h))
        out = dense(3 * count, kernel_init=nn.initializers.normal(0.1 / self.width**0.5))(h)
        means = jnp.linspace(-1.2, 1.2, count, dtype=z.dtype)
        start = jnp.concatenate([jnp.zeros_like(means), means, jnp.full_like(means, -0.5)])
        return jnp.moveaxis(out, 0, 2) + start[None, None, None]


class FlowEncoder(nn.Module):
    """`iaf`: an inverse autoregressive flow that ends in the trunk's Gaussian, as which it starts.

    Its noise's negative makes as good a draw, the mirror, at the price of another pass: none.
    """

    trunk: Trunk
    width: int
    num_steps: int = 4

    @nn.compact
    def __call__(self, x: Array, key: Key, num_samples: int, score: ScoreFn) -> Encoding:
        h, base = self.trunk(x, score)
        dim, width, draw = base.mean.shape[-1], self.width, nn.initializers.lecun_normal()

        def step(number: int) -> Autoregression:
            return Autoregression(
                context=nn.Dense(width, name=f"context_{number}")(h),
                into=self.param(f"into_{number}", draw, (dim, width), jnp.float32),
                out=self.param(f"out_{number}", zeros, (width, 2 * dim), jnp.float32),
                bias=nn.Dense(2 * dim, kernel_init=zeros, name=f"bias_{number}")(h),
            )

        flow = Flow(base, tuple(step(number) for number in range(self.num_steps)))
        noise = jax.random.normal(key, (num_samples, *base.mean.shape), x.dtype)
        z, log_q = inverse_flow.draw(flow, noise)
        return Encoding(z, density=flow, log_q=log_q)
