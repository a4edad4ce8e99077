"""Densities with exact draws, to measure posteriors by: each with its own difficulty.

Each `Shape` has a normalised log density of z [D], and exact draws.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

LOG_2PI = float(np.log(2.0 * np.pi))


class Shape(NamedTuple):
    """A density of D dimensions.

    Attributes:
        dim: D.
        log_density: z [D] -> nats, normalised.
        draw: (rng, n) -> z [n, D].
        modes: [M, D] centres of separate modes; none where there is one.
    """

    dim: int
    log_density: Callable
    draw: Callable
    modes: np.ndarray | None = None


def _log_normal(z, mean, scale):
    return -0.5 * jnp.square((z - mean) / scale) - jnp.log(scale) - 0.5 * LOG_2PI


def banana() -> Shape:
    """z₁ ~ N(0, 1), z₂ ~ N(z₁² − 1, ½²)."""

    def log_density(z):
        return _log_normal(z[0], 0.0, 1.0) + _log_normal(z[1], z[0] ** 2 - 1.0, 0.5)

    def draw(rng, n):
        z = rng.normal(size=(n, 2))
        return np.stack([z[:, 0], z[:, 0] ** 2 - 1.0 + 0.5 * z[:, 1]], axis=1)

    return Shape(2, log_density, draw)


def funnel(dim: int) -> Shape:
    """v ~ N(0, 3²), the others N(0, eᵛ) (Neal, "Slice sampling", 2003)."""

    def log_density(z):
        rest = _log_normal(z[1:], 0.0, jnp.exp(0.5 * z[0]))
        return _log_normal(z[0], 0.0, 3.0) + jnp.sum(rest)

    def draw(rng, n):
        z = rng.normal(size=(n, dim))
        v = 3.0 * z[:, :1]
        return np.concatenate([v, z[:, 1:] * np.exp(0.5 * v)], axis=1)

    return Shape(dim, log_density, draw)


def eight_gaussians(radius: float = 4.0, scale: float = 0.5) -> Shape:
    """Equal Gaussians on a circle, six of their standard deviations apart."""
    angles = np.arange(8) * np.pi / 4
    centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def log_density(z):
        means = jnp.asarray(centres, z.dtype)
        return logsumexp(jnp.sum(_log_normal(z[None], means, scale), axis=-1)) - np.log(8.0)

    def draw(rng, n):
        return centres[rng.integers(0, 8, n)] + scale * rng.normal(size=(n, 2))

    return Shape(2, log_density, draw, centres)


def _log_mass(radius: float, scale: float) -> float:
    """log of ∫ r exp(−(r − R)²/2s²) dr, on a grid."""
    r = np.linspace(0.0, radius + 12.0 * scale, 200_001)
    return float(np.log(np.trapezoid(r * np.exp(-0.5 * ((r - radius) / scale) ** 2), r)))


def _draw_radius(rng, n: int, radius: float, scale: float) -> np.ndarray:
    r = np.linspace(max(0.0, radius - 8.0 * scale), radius + 8.0 * scale, 20_001)
    weights = r * np.exp(-0.5 * ((r - radius) / scale) ** 2)
    return np.interp(rng.uniform(size=n), np.cumsum(weights) / weights.sum(), r)


def ring(radius: float = 3.0, scale: float = 0.3) -> Shape:
    """p(z) ∝ exp(−(|z| − 3)²/2·0.3²)."""
    log_mass = _log_mass(radius, scale) + LOG_2PI

    def log_density(z):
        r = jnp.sqrt(jnp.sum(jnp.square(z)) + 1e-12)
        return -0.5 * jnp.square((r - radius) / scale) - log_mass

    def draw(rng, n):
        angle, r = rng.uniform(0.0, 2.0 * np.pi, n), _draw_radius(rng, n, radius, scale)
        return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)

    return Shape(2, log_density, draw)


def torus(radius: float = 2.0, scale: float = 0.3) -> Shape:
    """A tube around a circle of radius 2 in three dimensions."""
    flat = ring(radius, scale)

    def log_density(z):
        return flat.log_density(z[:2]) + _log_normal(z[2], 0.0, scale)

    def draw(rng, n):
        return np.concatenate([flat.draw(rng, n), scale * rng.normal(size=(n, 1))], axis=1)

    return Shape(3, log_density, draw)


def rosenbrock() -> Shape:
    """p(z) ∝ exp(−((1 − z₁)² + 10 (z₂ − z₁²)²)/2)."""
    scale = 10.0**-0.5

    def log_density(z):
        return _log_normal(z[0], 1.0, 1.0) + _log_normal(z[1], z[0] ** 2, scale)

    def draw(rng, n):
        z = rng.normal(size=(n, 2))
        first = 1.0 + z[:, 0]
        return np.stack([first, first**2 + scale * z[:, 1]], axis=1)

    return Shape(2, log_density, draw)


SHAPES = {
    "banana": banana(),
    "funnel": funnel(10),
    "funnel_2d": funnel(2),
    "eight_gaussians": eight_gaussians(),
    "ring": ring(),
    "torus": torus(),
    "rosenbrock": rosenbrock(),
}


def kl_on_grid(shape: Shape, draws: np.ndarray, rng: np.random.Generator, bins: int = 40) -> float:
    """KL(q‖p) in nats of draws [n, 2] of q, both as histograms, p's of a million exact draws.

    Cells are equally likely under p in each direction. The bias of the plug-in estimate, some
    cells/n, is taken off by what as many exact draws of p itself give.
    """
    exact, other = (shape.draw(rng, n) for n in (1_000_000, len(draws)))
    levels = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    edges = [np.quantile(exact[:, d], levels) for d in range(2)]

    def counts(z):
        cell = [np.searchsorted(edge, z[:, d]) for d, edge in enumerate(edges)]
        return np.bincount(cell[0] * bins + cell[1], minlength=bins**2)

    p = counts(exact) + 0.5  # where p has none, it may have a little
    log_p = np.log(p / p.sum())

    def kl(z):
        q = counts(z) / len(z)
        some = q > 0.0
        return float(np.sum(q[some] * (np.log(q[some]) - log_p[some])))

    return kl(draws) - kl(other)
