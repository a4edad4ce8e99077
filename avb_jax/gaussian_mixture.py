"""Mixtures of Gaussians, fitted to draws by expectation-maximisation.

Dempster, Laird and Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm", 1977;
first means as in Arthur and Vassilvitskii, "k-means++", SODA 2007. Draws are to be standardised.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from avb_jax import contrast as contrasts
from avb_jax.densities import log_prior
from avb_jax.types import Array, Gaussian, Key

MOST = 8  # components
PART = 4096  # draws whose shares are computed at once, and behind the first means
TRIALS, TRIAL_PARTS = 4, 2  # first means that are tried, on so few of the draws
COUNTING = 4  # of all draws, one in so many tells how many components there are
# Iterations, the more the cheaper they are, by K D²; and the nats that another one must gain.
LEAST_ITERATIONS, MOST_ITERATIONS, AFFORDABLE, TOLERANCE = 30, 200, 2**14, 1e-6
IMPROVEMENT = 1e-3  # nats of held-out likelihood that twice as many components must gain


class GaussianMixture(NamedTuple):
    """Σ_k w_k N(m_k, C_k).

    Attributes:
        log_weight: log w, [K].
        components: their means [K, D] and factors [K, D, D].
    """

    log_weight: Array
    components: Gaussian


def log_density(mixture: GaussianMixture, z: Array) -> Array:
    """Nats: [..., D] -> [...]."""
    return logsumexp(_log_joint(mixture, z.reshape(-1, z.shape[-1])), axis=-1).reshape(z.shape[:-1])


def sample(mixture: GaussianMixture, key: Key, shape: tuple[int, ...]) -> Array:
    """Draws of that shape, [..., D]."""
    key_component, key_noise = jax.random.split(key)
    chosen = jax.random.categorical(key_component, mixture.log_weight, shape=shape[:-1])
    mean, scale_tril = mixture.components
    noise = jax.random.normal(key_noise, shape, mean.dtype)
    return mean[chosen] + jnp.einsum("...de,...e->...d", scale_tril[chosen], noise)


def fit(key: Key, z: Array, held_out: Array) -> GaussianMixture:
    """As many components, 1, 2, 4, …, as held-out draws gain by: z [n, D], held_out [m, D].

    Some of the draws tell how many; to all of them that mixture is fitted.
    """
    part = min(PART, len(z))
    parts = z[: len(z) // part * part].reshape(-1, part, z.shape[-1])
    some = parts[: max(1, len(parts) // COUNTING)]
    score = jax.jit(lambda mixture: jnp.mean(log_density(mixture, held_out)))
    best, most, count = None, -jnp.inf, 1
    while count <= MOST:
        mixture = _fit(jax.random.fold_in(key, count), some, count)
        reached = float(score(mixture))
        if best is not None and not reached > most + IMPROVEMENT:
            break
        best, most, count = mixture, reached, 2 * count
    assert best is not None
    return jax.jit(_maximise)(best, parts)[0]


@partial(jax.jit, static_argnums=2)
def _fit(key: Key, parts: Array, count: int) -> GaussianMixture:
    """The likeliest of several first means is carried on, on all of these draws."""
    few = parts[:TRIAL_PARTS]

    def trial(key):
        return _maximise(_start(key, parts[0], count), few)

    mixtures, reached = jax.lax.map(trial, jax.random.split(key, TRIALS if count > 1 else 1))
    start = jax.tree.map(lambda a: a[jnp.argmax(reached)], mixtures)
    return _maximise(start, parts)[0]


def _start(key: Key, z: Array, count: int) -> GaussianMixture:
    """Means among the draws, each the likelier the farther it is from those before it."""
    keys = jax.random.split(key, count)
    far = jnp.ones(len(z), z.dtype)  # squared distances to the nearest mean
    means: list[Array] = []
    for i in range(count):
        chosen = z[jax.random.categorical(keys[i], jnp.log(far))]
        square = jnp.sum(jnp.square(z - chosen[None]), axis=-1)
        far = jnp.minimum(far, square) if means else square
        means.append(chosen)
    dim = z.shape[-1]
    scale = jnp.broadcast_to(jnp.eye(dim, dtype=z.dtype), (count, dim, dim))
    return GaussianMixture(jnp.full(count, -jnp.log(count)), Gaussian(jnp.stack(means), scale))


def _maximise(mixture: GaussianMixture, parts: Array) -> tuple[GaussianMixture, Array]:
    """EM until an iteration gains nothing; and the mean log-likelihood before the last one."""
    values = mixture.components.scale_tril.size
    most = max(LEAST_ITERATIONS, min(MOST_ITERATIONS, AFFORDABLE // values))

    def gains(carry):
        _, before, now, taken = carry
        return (taken < 2) | ((now > before + TOLERANCE) & (taken < most))

    def iterate(carry):
        mixture, _, now, taken = carry
        return *_iterate(mixture, parts, now), taken + 1

    none = jnp.full((), -jnp.inf, parts.dtype)
    mixture, _, reached, _ = jax.lax.while_loop(gains, iterate, (mixture, none, none, 0))
    return mixture, reached


def _iterate(mixture: GaussianMixture, parts: Array, before: Array):
    """One iteration of EM: the next mixture, `before`, and the likelihood of the one that was.

    Each component counts one draw of N(0, I) too, and so never shrinks to a point.
    """

    def add(sums, z):
        log_joint = _log_joint(mixture, z)
        log_likelihood = logsumexp(log_joint, axis=-1)
        share = jnp.exp(log_joint - log_likelihood[:, None])
        squares = jnp.einsum("nk,nd,ne->kde", share, z, z)
        found = (jnp.sum(share, axis=0), share.T @ z, squares, jnp.mean(log_likelihood))
        return jax.tree.map(jnp.add, sums, found), None

    mean, _ = mixture.components
    count, dim = mean.shape
    own = (jnp.ones(count), jnp.zeros_like(mean), jnp.tile(jnp.eye(dim)[None], (count, 1, 1)))
    sums, _ = jax.lax.scan(add, (*own, jnp.zeros(())), parts)
    number, first, second, log_likelihood = sums
    mean = first / number[:, None]
    covariance = second / number[:, None, None] - jnp.einsum("kd,ke->kde", mean, mean)
    components = Gaussian(mean, jnp.linalg.cholesky(covariance))
    log_weight = jnp.log(number / jnp.sum(number))
    return GaussianMixture(log_weight, components), before, log_likelihood / len(parts)


def _log_joint(mixture: GaussianMixture, z: Array) -> Array:
    """log w_k N(z; m_k, C_k): [n, D] -> [n, K], nats."""
    mean, scale_tril = mixture.components
    unit = jnp.broadcast_to(jnp.eye(z.shape[-1], dtype=z.dtype), scale_tril.shape)
    inverse = jax.scipy.linalg.solve_triangular(scale_tril, unit, lower=True)
    # One matrix product for all: z is standardised, so that nothing large is subtracted.
    moved = jnp.einsum("kde,ne->nkd", inverse, z) - jnp.einsum("kde,ke->kd", inverse, mean)[None]
    log_scale = contrasts.log_scale(mixture.components, moved)
    return log_prior(moved) + (mixture.log_weight - log_scale)[None]
