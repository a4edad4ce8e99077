"""What `fit_critic` contrasts the draws of q with: moments, a Gaussian of x, a mixture, a flow."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from avb_jax import contrast as contrasts
from avb_jax import gaussian_mixture
from avb_jax.densities import log_prior
from avb_jax.gaussian_mixture import GaussianMixture
from avb_jax.networks.critics import LearnedContrast
from avb_jax.networks.flows import ContrastFlow
from avb_jax.types import Array, Gaussian, Key, Moments, Tree

POOL = 65_536  # draws behind the moments that z is standardised by
MIXTURE_POOLS, MIXTURE_VALUES = 4, 2**23  # as many of those behind a mixture, but no more values
TRUNK_WIDTH = 256
# Times D, of a coordinate's variance: what it must have that the ones before it do not explain. In
# float32 a factor's pivots are wrong by up to (D + 1) 1.2e-7 of it, and by what the sums have lost.
LEAST_SHARE = 2e-6


class Draws(NamedTuple):
    """Draws of q: z [S, B, D]; the context [B, ...] and the row numbers [B] of x, None without."""

    context: Array | None
    z: Array
    rows: Array | None = None


class Reference(NamedTuple):
    """The contrast: moments of all draws, a Gaussian of x, and a mixture or a flow; each optional.

    The moments and the mixture are fixed; what is not is in the parameters.
    """

    pool: Gaussian | None = None
    mixture: GaussianMixture | None = None
    gaussian: LearnedContrast | None = None
    flow: ContrastFlow | None = None

    def init(self, key: Key, draws: Draws) -> Tree:
        params = {}
        if self.gaussian:
            params["gaussian"] = self.gaussian.init(key, draws.context)
        if self.flow:
            params["flow"] = self.flow.init(key, draws.context, draws.z[:1])
        return params

    def coordinates(self, params: Tree, draws: Draws) -> tuple[Array, Array]:
        """(u [S, B, D], log r(z|x) [S, B]): u is as `sample` draws it where z ~ r."""
        u, log_scale = draws.z, jnp.zeros(draws.z.shape[1], draws.z.dtype)
        gaussians = []
        if self.pool:
            rows = draws.z.shape[1]
            gaussians.append(jax.tree.map(lambda a: jnp.repeat(a, rows, axis=0), self.pool))
        if self.gaussian:
            gaussians.append(self.gaussian.apply(params["gaussian"], draws.context))
        for gaussian in gaussians:
            u = contrasts.whiten(u, gaussian)
            log_scale = log_scale + contrasts.log_scale(gaussian, u)
        log_scale = log_scale[None]
        if self.mixture:
            return u, gaussian_mixture.log_density(self.mixture, u) - log_scale
        if self.flow:
            u, log_density = self.flow.apply(params["flow"], draws.context, u)
            return u, log_density - log_scale
        return u, log_prior(u) - log_scale

    def sample(self, key: Key, like: Array) -> Array:
        """Draws of r in those coordinates, shaped and typed as u [S, B, D]."""
        if self.mixture:
            return gaussian_mixture.sample(self.mixture, key, like.shape)
        return jax.random.normal(key, like.shape, like.dtype)

    def likelihood_loss(self, params: Tree, draws: Draws, key: Key) -> Array:
        """−E_q log r(z|x), nats."""
        del key
        return -jnp.mean(self.coordinates(params, draws)[1])


def build_references(
    contrast: str, dim: int, draw: Callable, other: Callable, keys: dict[str, Key], given_x: bool
) -> list[Reference]:
    """The contrast of that name; a mixture and a flow, of `best` without x.

    Moments are those of `POOL` draws; a mixture has as many components as draws by `other` warrant.

    Raises:
        FloatingPointError: if the draws are not finite, or lie in less than D dimensions.
    """
    z = _pool(draw, keys["pool"], POOL)
    moments = contrasts.sample_moments(z)
    pool = contrasts.from_moments(moments, "full")
    _check_spread(moments, pool)
    if contrast == "prior":
        return [Reference()]
    gaussian = LearnedContrast(dim, TRUNK_WIDTH, 2) if given_x else None
    found = []
    if contrast == "mixture" or (contrast == "best" and not given_x):
        found.append(Reference(pool, _mixture(pool, draw, other, keys["mixture"])))
    if contrast in ("flow", "best"):
        found.append(Reference(pool, gaussian=gaussian, flow=ContrastFlow()))
    return found or [Reference(pool, gaussian=gaussian)]


def _pool(draw: Callable, key: Key, count: int) -> Array:
    """Some `count` draws, in whole batches, as draws of one q: [n, 1, D]."""
    one = jax.eval_shape(draw, key).z.shape
    keys = jax.random.split(key, max(1, count // (one[0] * one[1])))
    z = jax.jit(lambda keys: jax.lax.map(lambda k: draw(k).z, keys))(keys)
    return z.reshape(-1, 1, one[-1])


def _mixture(pool: Gaussian, draw: Callable, other: Callable, key: Key) -> GaussianMixture:
    """Fitted to draws in the coordinates of the pool."""
    dim = pool.mean.shape[-1]
    keys = jax.random.split(key, 3)
    count = max(POOL, min(MIXTURE_POOLS * POOL, MIXTURE_VALUES // dim))
    z, held_out = _pool(draw, keys[0], count), _pool(other, keys[1], POOL)
    whitened = (contrasts.whiten(z, pool)[:, 0] for z in (z, held_out))
    return gaussian_mixture.fit(keys[2], *whitened)


def _check_spread(moments: Moments, pool: Gaussian) -> None:
    """Raises FloatingPointError where a coordinate is a function of those before it, or not finite.

    It is told by the share of its variance, 1 − R², that they leave unexplained.
    """
    variances = jnp.diagonal(moments.covariance[0])
    share = float(jnp.min(jnp.square(jnp.diagonal(pool.scale_tril[0])) / variances))
    least = LEAST_SHARE * len(variances)
    if not share > least:
        raise FloatingPointError(
            "the draws of sample are not finite, or lie in less than dim dimensions: the least "
            f"share of a coordinate's variance that others leave was {share:.1e}; allowed is more "
            f"than {least:.1e}"
        )


def source(sample: Callable, x: Array | None, context: Callable, batch_size: int):
    """key -> Draws of `batch_size` rows: many draws for each of some x, or of the one q."""
    if x is None:
        return lambda key: Draws(None, sample(key, batch_size)[:, None])
    rows = min(len(x), max(1, batch_size // 8))

    def draw(key):
        key_x, key_z = jax.random.split(key)
        chosen = _one_of_each_part(key_x, len(x), rows)
        some = x[chosen]
        keys = jax.random.split(key_z, max(1, batch_size // rows))
        z = jax.vmap(sample, (0, None))(keys, some)
        return Draws(context(some), z, chosen)

    return draw


def _one_of_each_part(key: Key, count: int, parts: int) -> Array:
    """Numbers below `count`, each as likely as any, from equal parts: [parts], with no sorting."""
    within = jax.random.uniform(key, (parts,), jnp.float32)
    at = (jnp.arange(parts, dtype=jnp.float32) + within) * (count / parts)
    return jnp.minimum(at.astype(jnp.int32), count - 1)
