"""The proposal of importance sampling: a multivariate Student t, fitted to draws of q(z|x).

What its own draws weigh then moves it towards the posterior.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from avb_jax.types import Array, Key

# On linear-Gaussian posteriors in D = 8 these give an effective sample size of 62% where q is
# exact (a Gaussian: 65%), and of 41% where q is 0.6 times too narrow (a Gaussian: 11%).
INFLATION = 1.2
DEGREES_OF_FREEDOM = 10


class Proposal(NamedTuple):
    """A multivariate Student t for each data point; a Gaussian where the degrees are infinite.

    Attributes:
        mean: [B, D].
        scale_tril: [B, D, D], lower triangular with a positive diagonal.
        degrees_of_freedom: a Python int above 0, or `math.inf` for the Gaussian.
    """

    mean: Array
    scale_tril: Array
    degrees_of_freedom: int | float


def fit_proposal(
    z: Array, *, inflation: float = INFLATION, degrees_of_freedom: int | float = DEGREES_OF_FREEDOM
) -> Proposal:
    """The proposal with the mean and the full covariance of draws of q(z|x), inflated.

    Its scale is `inflation` times the Cholesky factor of the covariance. A jitter, 1e-6 of the
    prior's unit variance and of the draws' total variance, keeps that factor well defined where
    q has collapsed to a point or to fewer dimensions, and where M <= D.

    Args:
        z: [M, B, D], draws of q(z|x).
        inflation: factor on the scale, and so its square on the covariance.
        degrees_of_freedom: of the Student t, an int; `math.inf` for a Gaussian.

    Raises:
        ValueError: if `inflation` is not positive and finite, or if `degrees_of_freedom` is neither
            an int above 0 nor infinite.
    """
    if not 0 < inflation < math.inf:
        raise ValueError(f"inflation was {inflation}; allowed is a finite number above 0")
    is_count = isinstance(degrees_of_freedom, int) and degrees_of_freedom >= 1
    if not is_count and degrees_of_freedom != math.inf:
        raise ValueError(
            f"degrees_of_freedom was {degrees_of_freedom}; allowed is an int above 0, or math.inf"
        )
    mean = jnp.mean(z, axis=0)
    residual = z - mean[None]
    covariance = jnp.einsum("mbi,mbj->bij", residual, residual) / z.shape[0]
    return Proposal(mean, inflation * _factor(covariance), degrees_of_freedom)


def _factor(covariance: Array) -> Array:
    jitter = 1e-6 * (1.0 + jnp.trace(covariance, axis1=-2, axis2=-1))
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    return jnp.linalg.cholesky(covariance + jitter[:, None, None] * eye[None])


def refit_proposal(
    proposal: Proposal, z: Array, log_w: Array, *, inflation: float = INFLATION
) -> Proposal:
    """The proposal with the weighted mean and covariance of its own draws, inflated.

    One step of adaptive importance sampling (Cappé, Guillin, Marin and Robert, "Population Monte
    Carlo", JCGS 2004). A weight counts for at most √M of the mean one (Ionides, "Truncated
    importance sampling", JCGS 2008), and the covariance is shrunk towards that before, which is
    worth 3 D draws beside the effective number of these. The proposal stays as it is where no
    weight is above zero. Four such steps of 128 draws raise the effective sample size of MNIST's
    posteriors in 8 dimensions, by small convolutions, from 21% to 46% of the draws, and from 9% to
    44% where q is the best Gaussian.

    Args:
        proposal: what the draws are of.
        z: [M, B, D].
        log_w: [M, B], log p(x, z) less the proposal's log density, nats.
        inflation: factor on the proposal's scale, before and after.
    """
    peak = jnp.max(log_w, axis=0)
    weight = jnp.exp(log_w - jnp.where(jnp.isfinite(peak), peak, 0.0)[None])
    weight = jnp.minimum(weight, len(z) ** 0.5 * jnp.mean(weight, axis=0)[None])
    weight = weight / jnp.sum(weight, axis=0)[None]
    mean = jnp.einsum("mb,mbd->bd", weight, z)
    residual = z - mean[None]
    covariance = jnp.einsum("mb,mbi,mbj->bij", weight, residual, residual)
    before = proposal.scale_tril / inflation
    share = 3 * z.shape[-1] * jnp.sum(jnp.square(weight), axis=0)
    share = (share / (1.0 + share))[:, None, None]
    covariance += share * (jnp.einsum("bij,bkj->bik", before, before) - covariance)
    known = jnp.isfinite(peak)
    return proposal._replace(
        mean=jnp.where(known[:, None], mean, proposal.mean),
        scale_tril=jnp.where(
            known[:, None, None], inflation * _factor(covariance), proposal.scale_tril
        ),
    )


def sample_proposal(proposal: Proposal, key: Key) -> Array:
    """One draw for each data point: [B, D]."""
    mean, scale_tril, degrees = proposal
    num_data, dim = mean.shape
    if math.isinf(degrees):
        noise = jax.random.normal(key, (num_data, dim), mean.dtype)
    else:
        # A chi-square as the sum of its squared normals: no rejection loop, quick to compile.
        normals = jax.random.normal(key, (num_data, dim + int(degrees)), mean.dtype)
        mean_square = jnp.mean(normals[:, dim:] ** 2, axis=-1)
        noise = normals[:, :dim] / jnp.sqrt(mean_square)[:, None]
    return mean + jnp.einsum("bij,bj->bi", scale_tril, noise)


def log_density_proposal(proposal: Proposal, z: Array) -> Array:
    """The proposal's log density in nats at z [S, B, D]: [S, B]."""
    mean, scale_tril, degrees = proposal
    dim = mean.shape[-1]
    residual = jnp.moveaxis(z - mean[None], 0, -1)
    whitened = lax.linalg.triangular_solve(scale_tril, residual, left_side=True, lower=True)
    distance = jnp.sum(whitened**2, axis=1).T
    log_volume = jnp.sum(jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)), axis=-1)
    return log_density_standard(distance, dim, degrees) - log_volume[None]


def log_density_standard(distance: Array, dim: int, degrees: int | float) -> Array:
    """Log density in nats of the proposal of zero mean and unit scale, at this squared distance."""
    if math.isinf(degrees):
        return -0.5 * distance - 0.5 * dim * math.log(2 * math.pi)
    constant = math.lgamma((degrees + dim) / 2) - math.lgamma(degrees / 2)
    constant -= 0.5 * dim * math.log(degrees * math.pi)
    return constant - 0.5 * (degrees + dim) * jnp.log1p(distance / degrees)
