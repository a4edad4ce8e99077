"""The steps that are measured: AVB's, and that of the plain VAE beside it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import zeros

import avb_jax as avb
from avb_jax.config import Config
from avb_jax.contrast import Contrast
from avb_jax.densities import LOG_2PI, log_prior
from avb_jax.networks.critics import ResidualCritic
from avb_jax.networks.layers import MLP, triangular

# The paper's form: one draw decoded, and an encoder that does not consult the decoder.
PLAIN = {"decoder_samples": 1, "refinements": 0}
CONV = {"decoder": "conv", "latent_dim": 32}


class Problem(NamedTuple):
    """One step: its config, and its model."""

    config: Config
    model: avb.Model


class Case(NamedTuple):
    """What is measured under one name.

    Attributes:
        avb: the implicit posterior, with its critic.
        vae: the Gaussian one that is decoded as often, without a critic.
        data: the batches of that many steps, [K, B, ...].
        steps: K, in one device call.
        in_torch: whether PyTorch runs it too.
    """

    avb: Problem
    vae: Problem
    data: np.ndarray
    steps: int
    in_torch: bool


def images(config: Config, shape: tuple[int, ...], steps: int) -> np.ndarray:
    """Made-up ones, three quarters of their pixels black, as in MNIST."""
    rng = np.random.default_rng(0)
    sides = (steps, config.batch_size, *shape)
    return rng.integers(1, 256, sides, np.uint8) * (rng.uniform(size=sides) > 0.75).astype(np.uint8)


def of_images(shape: tuple[int, ...], steps: int, in_torch: bool = True, **options) -> Case:
    config = Config(**options)
    explicit = Config(encoder="gaussian", **options)
    of_avb, of_vae = (Problem(c, avb.build_model(c, shape)) for c in (config, explicit))
    return Case(of_avb, of_vae, images(config, shape, steps), steps, in_torch)


SCHOOLS_Y = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
SCHOOLS_SIGMA = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


def eight_schools(z: jax.Array) -> jax.Array:
    """log p(y, z) of the non-centred model (Gelman et al., 2013, section 5.5): [10] -> scalar.

    z holds μ/5, log τ and η; μ ~ N(0, 5²), τ ~ half-Cauchy(5), η ~ N(0, I).
    """
    mu, log_tau, eta = 5.0 * z[0], z[1], z[2:]
    y, sigma = jnp.asarray(SCHOOLS_Y), jnp.asarray(SCHOOLS_SIGMA)
    offset = (y - (mu + jnp.exp(log_tau) * eta)) / sigma
    of_data = -0.5 * jnp.sum(jnp.square(offset) + LOG_2PI) - jnp.sum(jnp.log(sigma))
    of_tau = math.log(10.0 / math.pi) + log_tau - jnp.logaddexp(math.log(25.0), 2.0 * log_tau)
    return of_data + of_tau + log_prior(jnp.concatenate([z[:1], eta]))


class OnePosterior(nn.Module):
    """z = m + L (ε + f(ε)), or m + L ε where it is `explicit`: (key, S) -> Encoding, B = 1."""

    dim: int
    explicit: bool

    @nn.compact
    def __call__(self, key: jax.Array, num_samples: int) -> avb.Encoding:
        mean = self.param("mean", zeros, (1, self.dim))
        log_scale = self.param("log_scale", zeros, (1, self.dim))
        scale_tril = triangular(self.param("scale", zeros, (1, self.dim, self.dim)), log_scale)
        moved = noise = jax.random.normal(key, (num_samples, 1, self.dim))
        if not self.explicit:
            moved = noise + nn.Dense(self.dim, kernel_init=zeros)(MLP(128, 2)(noise))
        z = mean[None] + jnp.einsum("bde,sbe->sbd", scale_tril, moved)
        return avb.Encoding(z, density=avb.Gaussian(mean, scale_tril) if self.explicit else None)


def one_posterior(config: Config, log_joint: Callable) -> avb.Model:
    """q(z) for a log joint density, [D] -> scalar, as a model of one data point without data."""
    dim = config.latent_dim
    encoder = OnePosterior(dim, config.explicit)
    critic = ResidualCritic(config.critic_width, config.critic_depth, 1, 1, conditional=False)

    def init(key):
        keys = jax.random.split(key)
        psi = critic.init(keys[1], None, jnp.zeros((1, 1, dim)))
        return avb.Params(encoder.init(keys[0], key, 1), {}, {"critic": psi})

    def encode(params, key, x, num_samples):
        return encoder.apply(params.encoder, key, num_samples)

    def log_ratio(params, view, z_tilde):
        return critic.apply(params.critic["critic"], None, z_tilde)

    return avb.Model(
        event_shape=(1,),
        latent_dim=dim,
        init=init,
        encode=encode,
        decode=lambda theta, z: z,
        log_likelihood=lambda z, x: jax.vmap(jax.vmap(log_joint))(z) - log_prior(z),
        mean=lambda z: z,
        log_ratio=None if config.explicit else log_ratio,
        contrast=Contrast(config.contrast_name),
    )


def of_posterior(log_joint: Callable, dim: int, draws: int, steps: int) -> Case:
    sizes = {"num_samples": draws, "decoder_samples": draws, "latent_dim": dim, "batch_size": 1}
    config = Config(encoder="noise-mlp", refinements=0, critic="unconditional", **sizes)
    explicit = Config(encoder="gaussian-full", **sizes)
    of_avb, of_vae = (Problem(c, one_posterior(c, log_joint)) for c in (config, explicit))
    return Case(of_avb, of_vae, np.zeros((steps, 1, 1), np.float32), steps, True)


CASES = {
    "digits": lambda: of_images((8, 8, 1), 40, **PLAIN),
    "mnist-mlp": lambda: of_images((28, 28, 1), 20, **PLAIN),
    "mnist-defaults": lambda: of_images((28, 28, 1), 20, in_torch=False),
    "mnist-conv": lambda: of_images((28, 28, 1), 2, **PLAIN, **CONV),
    "posterior": lambda: of_posterior(eight_schools, 10, 512, 40),
}
