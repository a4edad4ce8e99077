"""log p(x) and the ELBO by a grid over z: exact, up to its error, where that space is small."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.ndimage import map_coordinates

from avb_jax.densities import log_own_kernel, log_prior
from avb_jax.evaluation.weights import check_counts, mean_weight
from avb_jax.types import Array, Key, Tree

MAX_DIM = 2
GRID_BLOCK = 2**14  # kernels drawn at once
REACH = 4.0  # of a kernel, in its standard deviations


@partial(jax.jit, static_argnames=("model", "limit", "points_per_dim", "block_size"))
def quadrature_log_likelihood(
    model: Any,
    params: Tree,
    x: Array,
    *,
    limit: float = 6.0,
    points_per_dim: int = 512,
    block_size: int = 256,
) -> Array:
    """log ∫ p(x|z) p(z) dz in nats, [B], by the midpoint rule on [-limit, limit]^D, D <= 2.

    For a smooth integrand the uniform grid's error falls faster than any power of its spacing
    h = 2 limit / points_per_dim: a Gaussian posterior of standard deviation σ gets the relative
    error 2 exp(-2π²σ²/h²) in each dimension, 1e-8 at σ = h (0.023 by default). Kinks of a relu
    decoder leave O(h²). The posterior's mass outside the box is lost: 2e-9 of the prior's in
    each dimension by default. Each grid point is decoded once for all x; memory is that of
    `block_size` decoder outputs and `block_size` times B log-likelihoods, in the gradient too.

    Args:
        model: hashable, with `latent_dim`, `decode(params.decoder, z [S, 1, D]) -> outputs` and
            `log_likelihood(outputs, x) -> [S, B]`, nats. The prior is N(0, I).
        params: the model's parameters.
        x: [B, ...], of any dtype; the grid is of float32, or float64 where x is.
        limit: half the width of the box, in standard deviations of the prior.
        points_per_dim: grid points along each latent dimension.
        block_size: grid points that are decoded at once.

    Raises:
        ValueError: if the latent dimension is above 2, `limit` not positive and finite, or a
            count below 1.
    """
    dim = model.latent_dim
    if not 1 <= dim <= MAX_DIM:
        raise ValueError(f"latent_dim was {dim}; quadrature is allowed for 1 and {MAX_DIM} only")
    if not 0 < limit < math.inf:
        raise ValueError(f"limit was {limit}; allowed is a finite number above 0")
    check_counts(points_per_dim=points_per_dim, block_size=block_size)
    spacing = 2.0 * limit / points_per_dim
    strides = points_per_dim ** jnp.arange(dim)
    # Not of x's own dtype: pixels as bool, uint8 or bfloat16 cannot count the cells.
    dtype = jnp.float64 if x.dtype == jnp.float64 else jnp.float32

    def log_integrand(index: Array) -> Array:
        cell = index[:, None] // strides[None] % points_per_dim
        z = spacing * (cell.astype(dtype) + 0.5) - limit
        outputs = model.decode(params.decoder, z[:, None])
        return model.log_likelihood(outputs, x) + log_prior(z)[:, None]

    mean = mean_weight(log_integrand, points_per_dim**dim, block_size).log_likelihood
    return mean + dim * math.log(2.0 * limit)


@partial(jax.jit, static_argnames=("model", "num_samples", "num_kernels", "points_per_dim"))
def quadrature_elbo(
    model: Any,
    params: Tree,
    key: Key,
    x: Array,
    *,
    num_samples: int = 2**14,
    num_kernels: int = 2**20,
    points_per_dim: int = 2048,
) -> Array:
    """E_q[log p(x, z) − log q(z|x)], [B] nats, with q(z|x) = E_ε q(z|x, ε) on a grid of z, D = 2.

    Errors, for a kernel of standard deviation τ and a spacing h: the sharing of kernels among the
    grid's points, and the reading between those, smooth by a tent of variance h²/6 each, on
    average over positions, and so add h²/3 in all to the kernel's variance τ² in each dimension;
    the outer mean is over `num_samples` draws. Those are the draws of `elbo_bracket` by the same
    key, x and number, so that the two differ in log q alone.

    Of M kernels κ, independent of z, the mean has the variance q ∫κ² / M, which makes its log too
    small by ∫κ² / (2 M q). The draw's own kernel is ∫κ² at z on average: half of it, over M, is
    added, and cancels that. What is left is of second order in 1 / (M q).

    Args:
        model: see `avb_jax.Model`; with a kernel of one scale for each x.
        params: its parameters.
        key: of the draws.
        x: [B, ...].
        num_samples: S, draws of q for the outer mean.
        num_kernels: a multiple of `GRID_BLOCK`.
        points_per_dim: of the grid, which spans the draws of each x, and what reaches them.

    Raises:
        ValueError: if the latent dimension is not 2, the encoder has no such kernel, or
            `num_kernels` is no such multiple.
    """
    if model.latent_dim != 2:
        raise ValueError(f"latent_dim was {model.latent_dim}; allowed is 2")
    if num_kernels < 1 or num_kernels % GRID_BLOCK:
        raise ValueError(f"num_kernels was {num_kernels}; allowed are multiples of {GRID_BLOCK}")
    key_own, key_kernels = jax.random.split(key)
    own = model.encode(params, key_own, x, num_samples)
    if own.kernel is None or len(own.kernel.scale_tril) != 1:
        raise ValueError("the encoder's kernel has not one scale for each x; no grid does it")

    def density(arguments):
        key, x, z, scale_tril = arguments
        return _mixture(
            z,
            scale_tril,
            lambda key: model.encode(params, key, x[None], GRID_BLOCK).kernel.mean[:, 0],
            jax.random.split(key, num_kernels // GRID_BLOCK),
            points_per_dim,
        )

    keys = jax.random.split(key_kernels, len(x))
    each = (keys, x, jnp.swapaxes(own.z, 0, 1), own.kernel.scale_tril[0])
    half_own = 0.5 * jnp.exp(log_own_kernel(own.kernel, own.z)) / num_kernels
    log_q = jnp.log(lax.map(density, each).T + half_own)
    return jnp.mean(model.log_joint(params, x, own.z) - log_q, axis=0)


def _mixture(
    z: Array, scale_tril: Array, draw_means: Callable[[Key], Array], keys: Key, side: int
) -> Array:
    """The mean of N(z; m, L Lᵀ) over blocks of means m, by a grid of side² points: [S].

    Each mean is shared out among the four points around it, and the grid convolved with the kernel
    by a Fourier transform. z is [S, 2], L [2, 2], and a key's block [GRID_BLOCK, 2].
    """
    reach = REACH * jnp.linalg.norm(scale_tril, axis=-1)
    origin, end = jnp.min(z, axis=0) - reach, jnp.max(z, axis=0) + reach
    spacing = (end - origin) / (side - 1)

    def add_block(mass, key):
        return _share_out(mass, (draw_means(key) - origin[None]) / spacing[None]), None

    mass, _ = lax.scan(add_block, jnp.zeros((side, side), z.dtype), keys)
    num_kernels = len(keys) * GRID_BLOCK
    density = _smooth(mass / num_kernels, scale_tril / spacing[:, None]) / jnp.prod(spacing)
    q = map_coordinates(density, list(((z - origin[None]) / spacing[None]).T), order=1)
    return jnp.maximum(q, 0.0)  # but for the transform's rounding, it is not negative


def _share_out(mass: Array, at: Array) -> Array:
    """Adds a unit at each point [M, 2] of a grid, linearly to the four corners around it."""
    corner = jnp.floor(at)
    part, index = at - corner, corner.astype(jnp.int32)
    for i, weight_i in ((0, 1.0 - part[:, 0]), (1, part[:, 0])):
        for j, weight_j in ((0, 1.0 - part[:, 1]), (1, part[:, 1])):
            mass = mass.at[index[:, 0] + i, index[:, 1] + j].add(weight_i * weight_j, mode="drop")
    return mass


def _smooth(mass: Array, scale_tril: Array) -> Array:
    """The mass convolved with N(0, scale_tril scale_trilᵀ), in units of the grid's spacing."""
    frequencies = 2.0 * math.pi * jnp.fft.fftfreq(len(mass)).astype(mass.dtype)
    grid = jnp.stack(jnp.meshgrid(frequencies, frequencies, indexing="ij"), axis=-1)
    damping = jnp.exp(-0.5 * jnp.sum(jnp.square(grid @ scale_tril), axis=-1))
    return jnp.fft.ifft2(jnp.fft.fft2(mass) * lax.complex(damping, jnp.zeros_like(damping))).real
