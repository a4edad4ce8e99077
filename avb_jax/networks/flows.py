"""Normalising flows: a contrast that takes q's own shape, and an explicit posterior."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import zeros
from jax.scipy.special import logsumexp, ndtr, ndtri

from avb_jax import inverse_flow
from avb_jax.densities import LOG_2PI
from avb_jax.networks.layers import MLP, flatten_context
from avb_jax.networks.trunk import Trunk
from avb_jax.types import Answers, Array, Autoregression, Encoding, Flow, Key

TINY = 1e-35  # a probability that float32 still holds with all its digits
LARGEST = 1.0  # log-scale of one coupling


def _identity(key: Key, dim: int) -> Array:
    del key
    return jnp.eye(dim, dtype=jnp.float32)


def squash(x: Array) -> Array:
    """x/√(1 + x²), within ±1, which it nears more slowly than tanh does."""
    return x * jax.lax.rsqrt(1.0 + jnp.square(x))


class Turn(nn.Module):
    """u = A z with a learned matrix, I at first: [R, D] -> (u [R, D], log |det A|)."""

    @nn.compact
    def __call__(self, z: Array) -> tuple[Array, Array]:
        matrix = self.param("matrix", _identity, z.shape[-1])
        return z @ matrix.T, jnp.linalg.slogdet(matrix)[1]


class CouplingFlow(nn.Module):
    """Linear maps and affine couplings: (features, z [S, B, D]) -> (u, log |∂u/∂z| [S, B]), nats.

    Each of the `count` rounds turns z by a matrix of its own, and shifts and scales one half of
    it by what an MLP makes of the other (Dinh et al., "Density estimation using Real NVP", ICLR
    2017; the matrix as in Kingma and Dhariwal, "Glow", NIPS 2018); one more matrix ends it. It
    starts as an exchange of halves. D is 2 or more; the features are those of x, [B, F], or None.
    """

    count: int = 8
    width: int = 64

    @nn.compact
    def __call__(self, features: Array | None, z: Array) -> tuple[Array, Array]:
        u = z.reshape(-1, z.shape[-1])
        log_scale = jnp.zeros(len(u), z.dtype)
        for of_x in self._of_each_round(features):
            u, log_turn = Turn()(u)
            kept, moved = jnp.split(u, [u.shape[-1] // 2], axis=-1)
            shift, scale = self._coupling(kept, of_x, moved.shape[-1])
            u = jnp.concatenate([(moved - shift) * jnp.exp(-scale), kept], axis=-1)
            log_scale = log_scale + log_turn - jnp.sum(scale, axis=-1)
        u, log_turn = Turn()(u)
        return u.reshape(z.shape), (log_scale + log_turn).reshape(z.shape[:-1])

    def _of_each_round(self, features: Array | None) -> Sequence[Array | None]:
        """What x adds to the first hidden units of each round, [B, width]: one product for all."""
        if features is None:
            return [None] * self.count
        of_all = nn.Dense(self.count * self.width, use_bias=False)(features)
        return jnp.split(of_all, self.count, axis=-1)

    def _coupling(self, kept: Array, of_x: Array | None, size: int) -> tuple[Array, Array]:
        h = nn.Dense(self.width)(kept)
        if of_x is not None:
            h = (h.reshape(-1, *of_x.shape) + of_x[None]).reshape(h.shape)
        h = squash(h)
        h = h + squash(nn.Dense(self.width)(h))
        start = nn.initializers.normal(0.01)
        shift, scale = jnp.split(nn.Dense(2 * size, kernel_init=start)(h), 2, axis=-1)
        return shift, LARGEST * jnp.tanh(scale / LARGEST)


class MixtureFlow(nn.Module):
    """u_d = Φ⁻¹(F_d(z_d | x)): (features, z [S, B, D]) -> (u [S, B, D], log r [S, B]), nats.

    F_d is the distribution function of a mixture of Gaussians, one for each d. If z ~ r then
    u ~ N(0, I), and log r(z) = Σ_d log F_d′: the marginal Gaussianisation of Chen and Gopinath,
    "Gaussianization", NIPS 2000. It is exact for products of such mixtures.

    The features are those of x, [B, F], or None for one density alone.
    """

    components: int = 8

    @nn.compact
    def __call__(self, features: Array | None, z: Array) -> tuple[Array, Array]:
        columns = z.reshape(-1, z.shape[-1]).T  # [D, S B]: rows last throughout, for speed
        log_weight, mean, log_scale, inverse_scale = self._mixtures(features, columns)
        y = (columns[:, None] - mean) * inverse_scale
        log_normal = -0.5 * (jnp.square(y) + LOG_2PI) - log_scale
        log_density = jnp.sum(logsumexp(log_weight + log_normal, axis=1), axis=0)
        below, above = (jnp.sum(jnp.exp(log_weight) * ndtr(side), axis=1) for side in (y, -y))
        # The smaller of the two tails keeps its digits.
        tail = ndtri(jnp.maximum(jnp.minimum(below, above), TINY))
        u = jnp.where(below < above, tail, -tail)
        return u.T.reshape(z.shape), log_density.reshape(z.shape[:-1])

    def _mixtures(self, features: Array | None, columns: Array) -> tuple[Array, ...]:
        """log w, m, log σ and 1/σ of each dimension's mixture: [D, K, S B or 1]."""
        (dim, rows), count = columns.shape, self.components
        means = jnp.linspace(-1.2, 1.2, count, dtype=columns.dtype)
        start = jnp.concatenate([jnp.zeros_like(means), means, jnp.full_like(means, -0.5)])
        out = self.param("bias", zeros, (dim, 3 * count, 1), jnp.float32) + start[None, :, None]
        if features is not None:
            moved = nn.Dense(dim * 3 * count, use_bias=False, kernel_init=zeros)(features)
            out = out + moved.T.reshape(dim, 3 * count, -1)
        weight, mean, log_scale = jnp.split(out, 3, axis=1)
        found = jax.nn.log_softmax(weight, axis=1), mean, log_scale, jnp.exp(-log_scale)
        if features is None:
            return found
        return tuple(jnp.tile(a, (1, 1, rows // len(features))) for a in found)


class ContrastFlow(nn.Module):
    """Couplings, if D > 1, then mixtures: (context, z [S, B, D]) -> (u [S, B, D], log r [S, B]).

    If z ~ r then u ~ N(0, I); nats. The context is [B, ...], or None for one density alone.
    """

    couplings: CouplingFlow = CouplingFlow()
    mixtures: MixtureFlow = MixtureFlow()
    trunk_width: int = 256
    trunk_depth: int = 2

    @nn.compact
    def __call__(self, context: Array | None, z: Array) -> tuple[Array, Array]:
        features, log_turn = None, jnp.zeros(z.shape[:-1], z.dtype)
        if context is not None:
            features = MLP(self.trunk_width, self.trunk_depth)(flatten_context(context))
        if z.shape[-1] > 1:
            z, log_turn = self.couplings(features, z)
        u, log_density = self.mixtures(features, z)
        return u, log_density + log_turn


class FlowEncoder(nn.Module):
    """`iaf`: an inverse autoregressive flow that ends in the trunk's Gaussian, as which it starts.

    Its noise's negative makes as good a draw, the mirror, at the price of another pass: none.
    """

    trunk: Trunk
    width: int
    num_steps: int = 4

    @nn.compact
    def __call__(self, x: Array, key: Key, num_samples: int, answers: Answers) -> Encoding:
        h, base = self.trunk(x, answers)
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
