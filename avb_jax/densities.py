"""log p(z), log q(z|x, ε), and log p(x|z) for Bernoulli, Gaussian and logistic pixels."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from avb_jax.types import Array, Kernel, Key, Tree

LOG_2PI = math.log(2.0 * math.pi)
LEVELS = 256  # of an 8-bit pixel


def log_prior(z: Array) -> Array:
    """log N(z; 0, I) in nats, [..., D] -> [...]."""
    return -0.5 * jnp.sum(jnp.square(z) + LOG_2PI, axis=-1)


def _times(matrices: Array, vectors: Array) -> Array:
    """Each of [S, B, D, D], or the one of [1, B, D, D], times each of [S, B, D]."""
    if len(matrices) == 1:
        return jnp.einsum("bde,sbe->sbd", matrices[0], vectors)
    return jnp.einsum("sbde,sbe->sbd", matrices, vectors)


def draw_kernel(key: Key, kernel: Kernel) -> Array:
    """One draw of q(z|x, ε) for each of its means: [S, B, D]."""
    noise = jax.random.normal(key, kernel.mean.shape, kernel.mean.dtype)
    return kernel.mean + _times(kernel.scale_tril, noise)


def log_kernel(kernel: Kernel, z: Array) -> Array:
    """log q(z|x, ε) of every draw under every kernel, nats: [M, B, …], z [S, B, D] -> [M, B, S].

    In that order, with D first within, a sum over kernels is fast on CPUs.
    """
    scale_tril = kernel.scale_tril
    eye = jnp.broadcast_to(jnp.eye(z.shape[-1], dtype=z.dtype), scale_tril.shape)
    inverse = lax.linalg.triangular_solve(scale_tril, eye, left_side=True, lower=True)
    whitened = jnp.einsum("mbde,sbe->dmbs", inverse, z)
    centres = jnp.moveaxis(_times(inverse, kernel.mean), -1, 0)[..., None]
    squares = sum(jnp.square(w - c) for w, c in zip(whitened, centres, strict=True))
    log_scale = jnp.sum(jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)), axis=-1)
    return -0.5 * (squares + z.shape[-1] * LOG_2PI) - log_scale[..., None]


def log_own_kernel(kernel: Kernel, z: Array) -> Array:
    """log q(z|x, ε) of draws under the kernels they came from, nats: z [S, B, D] -> [S, B]."""
    own = kernel._replace(scale_tril=jnp.broadcast_to(kernel.scale_tril, (*z.shape, z.shape[-1])))
    return jax.vmap(
        lambda kernel, z: log_kernel(jax.tree.map(lambda a: a[None], kernel), z[None])[0, :, 0]
    )(own, z)


class Likelihood(NamedTuple):
    """p(x|z), as functions of the decoder's outputs.

    Attributes:
        log_prob: (outputs, x [B, ...]) -> [S, B], nats.
        mean: outputs -> [S, B, ...], the pixels' means in [0, 1].
        draw: (key, outputs) -> [S, B, ...], x ~ p(x|z).
        has_scale: whether outputs are `(location [S, B, h, w, c], log_scale [c])` rather than
            logits [S, B, h, w, c].
    """

    log_prob: Callable[[Tree, Array], Array]
    mean: Callable[[Tree], Array]
    draw: Callable[[Key, Tree], Array]
    has_scale: bool


def _sum_event(values: Array) -> Array:
    return jnp.sum(values, axis=tuple(range(2, values.ndim)))


def _per_channel(log_scale: Array, location: Array) -> Array:
    """[c] -> [1, ..., 1, c], of as many axes as the location."""
    return log_scale.reshape((1,) * (location.ndim - 1) + (-1,))


def bernoulli_log_prob(logits: Array, x: Array) -> Array:
    """Σ log Bernoulli(x; σ(logits)) in nats; logits [S, B, ...], x [B, ...] -> [S, B].

    Logits [S, 1, ...] serve all x: their normaliser is then computed once.
    """
    flat = logits.reshape(*logits.shape[:2], -1)
    inner = jnp.einsum("sbe,be->sb", flat, x.reshape(x.shape[0], -1))
    return inner - jnp.sum(jax.nn.softplus(flat), axis=-1)


def gaussian_log_prob(outputs: tuple[Array, Array], x: Array) -> Array:
    """Σ log N(x; location, exp(log_scale)²) in nats; a density of x in [0, 1] -> [S, B]."""
    location, log_scale = outputs
    log_scale = _per_channel(log_scale, location)
    standardised = (x[None] - location) * jnp.exp(-log_scale)
    return _sum_event(-0.5 * (jnp.square(standardised) + LOG_2PI) - log_scale)


def logistic_log_prob(outputs: tuple[Array, Array], x: Array) -> Array:
    """Σ log probability of each 8-bit level under a logistic density cut into 256 bins -> [S, B].

    The outermost bins reach to infinity, so that the levels' probabilities sum to one
    (Salimans et al. 2017, "PixelCNN++", section 2.1). x holds level/255.
    """
    location, log_scale = outputs
    log_scale = _per_channel(log_scale, location)
    half_bin = 0.5 / (LEVELS - 1)
    centred = x[None] - location
    upper = (centred + half_bin) * jnp.exp(-log_scale)
    lower = (centred - half_bin) * jnp.exp(-log_scale)
    # log(σ(upper) − σ(lower)) without cancellation: both tails stay finite.
    width = 2.0 * half_bin * jnp.exp(-log_scale)
    inner = jnp.log(-jnp.expm1(-width)) - jax.nn.softplus(-upper) - jax.nn.softplus(lower)
    below, above = -jax.nn.softplus(-upper), -jax.nn.softplus(lower)
    level = jnp.broadcast_to(x[None], centred.shape)
    first, last = level < half_bin, level > 1.0 - half_bin
    return _sum_event(jnp.where(first, below, jnp.where(last, above, inner)))


def _draw_bernoulli(key: Key, logits: Array) -> Array:
    return jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype)


def _draw_gaussian(key: Key, outputs: tuple[Array, Array]) -> Array:
    location, log_scale = outputs
    return location + jnp.exp(_per_channel(log_scale, location)) * jax.random.normal(
        key, location.shape, location.dtype
    )


def _draw_logistic(key: Key, outputs: tuple[Array, Array]) -> Array:
    location, log_scale = outputs
    noise = jax.random.logistic(key, location.shape, location.dtype)
    x = location + jnp.exp(_per_channel(log_scale, location)) * noise
    return jnp.round(jnp.clip(x, 0.0, 1.0) * (LEVELS - 1)) / (LEVELS - 1)


def _pixel(outputs: tuple[Array, Array]) -> Array:
    return jnp.clip(outputs[0], 0.0, 1.0)


LIKELIHOODS = {
    "bernoulli": Likelihood(bernoulli_log_prob, jax.nn.sigmoid, _draw_bernoulli, has_scale=False),
    "gaussian": Likelihood(gaussian_log_prob, _pixel, _draw_gaussian, has_scale=True),
    "logistic": Likelihood(logistic_log_prob, _pixel, _draw_logistic, has_scale=True),
}
