"""The `Model` of an unnormalised log density: what the fused step, and every estimator, runs on.

The "data point" x of an unconditional posterior is the inverse temperature β, [B, 1]: training
goes from the start's Gaussian to p by p^β N(w; 0, I)^(1−β).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from avb_jax import contrast as contrasts
from avb_jax.contrast import Contrast
from avb_jax.densities import LOG_2PI, draw_kernel, log_prior
from avb_jax.model import Model
from avb_jax.posterior.coordinates import Coordinates
from avb_jax.posterior.networks import GainCritic, Sampler
from avb_jax.types import Array, Encoding, Params, View

EXTRA_NOISE = 2  # N − D


def of_density(
    log_joint: Callable[[Array, Array], Array], features: int, dim: int, **networks: Callable
) -> Model:
    """The engine's model of (w [S, B, D], x [B, F]) -> log p [S, B]: decoding does nothing.

    Args:
        networks: `init`, `encode` and `log_ratio` of the `Model`.
    """
    return Model(
        event_shape=(features,),
        latent_dim=dim,
        decode=lambda _, w: w,
        log_likelihood=lambda w, x: log_joint(w, x) - log_prior(w),
        mean=lambda w: w,
        contrast=Contrast("moments", "full"),
        **networks,
    )


def gain_of(log_joint: Callable[[Array, Array], Array], view: View, w_tilde: Array) -> Array:
    """log p − log r at w̃, less its mean under q: [S, B] nats. The last feature is E_q log p."""
    w = contrasts.unwhiten(w_tilde, jax.lax.stop_gradient(view.reference))
    level = view.context[None, :, -1] + 0.5 * w.shape[-1] * (1.0 + LOG_2PI)
    return log_joint(w, view.x) - log_prior(w_tilde) - level


def build_model(coordinates: Coordinates, dim: int, width: int, depth: int) -> Model:
    """The engine's model of one density, in w: x [B, 1] is β, decoding does nothing."""
    sampler, critic = Sampler(width, depth), GainCritic(width, depth)
    noise_dim = dim + EXTRA_NOISE

    def density(w):  # one batch axis: with another of size 1, XLA takes four times as long on CPUs
        flat = jax.vmap(coordinates.log_density)(w.reshape(-1, dim))
        return flat.reshape(w.shape[:-1])

    def log_joint(w, x):
        beta = x[None, :, 0]
        return beta * density(w) + (1.0 - beta) * log_prior(w)

    def encode(params, key, x, num_samples):
        keys, count = jax.random.split(key), x.shape[0]
        noise = jax.random.normal(keys[0], (num_samples, count, noise_dim), x.dtype)
        mean, scale = jnp.zeros((count, dim)), jnp.broadcast_to(jnp.eye(dim), (count, dim, dim))
        kernel = sampler.apply(params.encoder, None, mean, scale, noise)
        w = draw_kernel(keys[1], kernel)
        level = jnp.mean(log_joint(jax.lax.stop_gradient(w), x), axis=0)
        return Encoding(w, kernel=kernel, features=level[:, None])

    def log_ratio(params, view: View, w_tilde):
        gain = gain_of(log_joint, view, w_tilde)
        return critic.apply(params.critic, None, w_tilde, gain)

    def init(key):
        keys = jax.random.split(key)
        one = jnp.zeros((1, 1, dim))
        eye = jnp.eye(dim)[None]
        phi = sampler.init(keys[0], None, one[0], eye, jnp.zeros((1, 1, noise_dim)))
        return Params(phi, {}, critic.init(keys[1], None, one, one[..., 0]))

    return of_density(log_joint, 1, dim, init=init, encode=encode, log_ratio=log_ratio)
