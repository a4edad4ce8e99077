"""A hierarchical model that can be simulated: groups whose means share a mean and a spread.

μ ~ N(0, 1), log τ ~ N(0, 1), ηⱼ ~ N(0, 1), yⱼ ~ N(μ + τ ηⱼ, 1) for eight groups j. Given τ its
posterior is Gaussian, so that there are exact draws to compare with.
"""

import jax.numpy as jnp
import numpy as np

GROUPS = 8
NAMES = ("mu", "log tau", *(f"eta[{j}]" for j in range(1, GROUPS + 1)))
GRID = np.linspace(-7.0, 7.0, 561)  # of log τ


def simulate(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters z = (μ, log τ, η) [n, 10] from the prior, and data y [n, 8] of each."""
    z = rng.normal(size=(count, len(NAMES)))
    means = z[:, :1] + np.exp(z[:, 1:2]) * z[:, 2:]
    return z, means + rng.normal(size=means.shape)


def log_joint(y, z):
    """log p(y, z) of y [8] and z [10], nats, up to a constant."""
    means = z[0] + jnp.exp(z[1]) * z[2:]
    return -0.5 * jnp.sum(jnp.square(z)) - 0.5 * jnp.sum(jnp.square(y - means))


def draw_exact(rng: np.random.Generator, y: np.ndarray, count: int) -> np.ndarray:
    """Draws of p(z|y) for each data set: y [n, 8] -> [count, n, 10].

    log τ from its posterior on a grid, μ given τ, η given both.
    """
    variance = 1.0 + np.exp(2.0 * GRID)  # of y given μ and τ
    precision, pull = 1.0 + GROUPS / variance, y.sum(axis=1, keepdims=True) / variance
    log_p = 0.5 * (pull**2 / precision - np.square(y).sum(axis=1, keepdims=True) / variance)
    log_p -= 0.5 * (GRID**2 + GROUPS * np.log(variance) + np.log(precision))
    shares = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    shares = np.cumsum(shares, axis=1) / shares.sum(axis=1, keepdims=True)
    uniform = rng.uniform(size=(count, len(y)))
    cells = [np.searchsorted(of_row, u) for of_row, u in zip(shares, uniform.T, strict=True)]
    within = (rng.uniform(size=uniform.shape) - 0.5) * (GRID[1] - GRID[0])
    log_tau = GRID[np.stack(cells, axis=1)] + within
    tau = np.exp(log_tau)
    precision = 1.0 + GROUPS / (1.0 + tau**2)
    mu = y.sum(axis=1) / (1.0 + tau**2) / precision + rng.normal(size=tau.shape) / precision**0.5
    mean = tau[..., None] * (y - mu[..., None]) / (1.0 + tau**2)[..., None]
    eta = mean + rng.normal(size=mean.shape) / np.sqrt(1.0 + tau**2)[..., None]
    return np.concatenate([mu[..., None], log_tau[..., None], eta], axis=-1)
