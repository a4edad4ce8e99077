"""What the page asks a run: decodings, draws of q(z|x), and those of the Gaussian like it."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.model import Model
from avb_jax.run import Run
from avb_jax.types import Array, Key, Params

NUM_DRAWS = 500
NUM_DECODED = 10  # of them


class Draws(NamedTuple):
    """Draws of a density over z, seen through the decoder.

    Attributes:
        z: [S, D].
        images: pixel means at the first `NUM_DECODED`, [n, h, w, c].
        log_joint: the mean of log p(x, z) over the draws, nats.
    """

    z: np.ndarray
    images: np.ndarray
    log_joint: float


class Explorer:
    """A run whose functions are compiled once, for one x at a time."""

    def __init__(self, run: Run):
        self.latent_dim = run.model.latent_dim
        self._posterior = jax.jit(partial(_posterior, run.model, run.params))
        self._decode = jax.jit(partial(_decode, run.model, run.params))
        self._log_joint = jax.jit(partial(_log_joint, run.model, run.params))

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Pixel means: z [S, D] -> [S, h, w, c]."""
        return np.asarray(self._decode(jnp.asarray(z, jnp.float32)))

    def posterior(self, x: np.ndarray, seed: int) -> Draws:
        """Draws of q(z|x) for one x [h, w, c]."""
        z = self._posterior(jax.random.key(seed), jnp.asarray(x))
        return self.seen(x, np.asarray(z))

    def seen(self, x: np.ndarray, z: np.ndarray) -> Draws:
        """Draws z [S, D] of any density, for x [h, w, c]."""
        z = np.asarray(z, np.float32)
        log_joint = self._log_joint(jnp.asarray(x), jnp.asarray(z))
        return Draws(z, self.decode(z[:NUM_DECODED]), float(log_joint))


def gaussian_like(z: np.ndarray, seed: int) -> np.ndarray:
    """Draws of the Gaussian that has the mean and the covariance of z: [S, D] -> [S, D]."""
    covariance = np.atleast_2d(np.cov(z, rowvar=False))
    rng = np.random.default_rng(seed)
    # By singular values: a posterior that is all but a point has no Cholesky factor.
    return rng.multivariate_normal(z.mean(axis=0), covariance, len(z), method="svd")


def _posterior(model: Model, params: Params, key: Key, x: Array) -> Array:
    return model.sample_posterior(params, key, x[None], NUM_DRAWS)[:, 0]


def _decode(model: Model, params: Params, z: Array) -> Array:
    return model.decode_mean(params, z[:, None])[:, 0]


def _log_joint(model: Model, params: Params, x: Array, z: Array) -> Array:
    return jnp.mean(model.log_joint(params, x[None], z[:, None]))
