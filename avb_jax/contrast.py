"""The contrast r(z|x): a density that can be both sampled and evaluated (paper, section 4).

The critic sees z in the contrast's own coordinates, z̃ = L⁻¹(z − m) with LLᵀ = C, and is
contrasted with N(0, I) there; log q̂(z|x) = s(x, z̃) + log N(z; m, C).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.densities import log_prior
from avb_jax.types import Array, Encoding, Gaussian, Key, Moments, Tree


class Contrast(NamedTuple):
    """One choice of r(z|x).

    Attributes:
        name: `prior`, `moments` or `learned`.
        covariance: `full` or `diagonal`, of the moments.
        network: (critic parameters, x [B, ...]) -> Gaussian, of a `learned` contrast; else None.
    """

    name: str
    covariance: str = "full"
    network: Callable[[Tree, Array], Gaussian] | None = None

    def reference(self, critic_params: Tree, x: Array, encoding: Encoding) -> Gaussian | None:
        """r(z|x) for the draws of one encoding; None stands for the prior N(0, I)."""
        if self.name == "prior":
            return None
        if self.name == "learned":
            return self.learned(critic_params, x)
        return from_moments(encoding.moments or draws_moments(encoding), self.covariance)

    def learned(self, critic_params: Tree, x: Array) -> Gaussian:
        """N(m_α(x), C_α(x)) of a `learned` contrast; raises ValueError without a network."""
        if self.network is None:
            raise ValueError("network was None; allowed is (critic parameters, x) -> Gaussian")
        return self.network(critic_params, x)

    def whitens_draws(self, encoding: Encoding) -> bool:
        """Whether z̃ has the draws' own moments, so that reference draws need it too."""
        return self.name == "moments" and encoding.moments is None

    def check_draws(self, encoding: Encoding) -> None:
        """Raises ValueError for draws that their own moments would whiten to a simplex, or to NaN.

        A config cannot: whether a user's own encoding has moments is known once it is made.
        """
        count, _, dim = encoding.z.shape
        least = 2 + (dim if self.covariance == "full" else 1)
        if self.whitens_draws(encoding) and count < least:
            raise ValueError(
                f"num_samples was {count}; allowed is {least} or more, for {self.covariance} "
                f"moments of the draws in latent_dim {dim}"
            )

    def log_density(self, z: Array, reference: Gaussian | None, encoding: Encoding) -> Array:
        """log r(z|x) at z that are not the draws of the encoding, nats: [S, B, D] -> [S, B].

        Where r's moments are those of N draws, ½ log|Ĉ| is off by `log_scale_bias` on average, and
        E[z̃_d²] is (N + 1)/(N − D − 2) and not 1, with 1 in place of D where Ĉ is diagonal. Both are
        taken back: the mean is right where q is Gaussian. N has to be above D + 2.
        """
        if not self.whitens_draws(encoding):
            return log_density(z, reference)
        count, _, dim = encoding.z.shape
        spread = (count + 1.0) / (count - (dim if self.covariance == "full" else 1.0) - 2.0)
        z_tilde = whiten(z, reference) / spread**0.5
        return log_prior(z_tilde) - log_scale(reference, z)[None] + self.log_scale_bias(encoding)

    def log_scale_bias(self, encoding: Encoding) -> float:
        """Expected excess of ½ log|Ĉ| over ½ log|C| where Ĉ comes from the draws, nats."""
        if not self.whitens_draws(encoding):
            return 0.0
        num_samples, _, dim = encoding.z.shape
        return log_scale_bias(num_samples, dim, self.covariance)


def sample_moments(z: Array) -> Moments:
    """Mean and covariance (divided by S) of the draws of each x; z is [S, B, D]."""
    mean = jnp.mean(z, axis=0)
    centred = z - mean[None]
    return Moments(mean, jnp.einsum("sbd,sbe->bde", centred, centred) / z.shape[0])


def draws_moments(encoding: Encoding) -> Moments:
    """Those of an encoding's draws, with a factor of their covariance.

    The draws of an x may all but lie on a line, which their covariance in float32 does not survive.
    So it is factorised in the coordinates of a kernel that ended them, where it is round. Of fewer
    than D + 1 draws there is no factor, but NaN; their variances stay.
    """
    moments = sample_moments(encoding.z)
    if encoding.kernel is None:
        return moments
    kernel = Gaussian(moments.mean, jax.lax.stop_gradient(encoding.kernel.scale_tril[0]))
    round_covariance = sample_moments(whiten(encoding.z, kernel)).covariance
    return moments._replace(scale_tril=kernel.scale_tril @ jnp.linalg.cholesky(round_covariance))


def from_moments(moments: Moments, covariance: str) -> Gaussian:
    """The Gaussian of these moments: with all of the covariance, or its diagonal alone."""
    if covariance == "full":
        known = moments.scale_tril
        factor = jnp.linalg.cholesky(moments.covariance) if known is None else known
        return Gaussian(moments.mean, factor)
    scale = jnp.sqrt(jnp.diagonal(moments.covariance, axis1=-2, axis2=-1))
    return Gaussian(moments.mean, jax.vmap(jnp.diag)(scale))


def log_scale_bias(num_samples: int, dim: int, covariance: str) -> float:
    """E[½ log|Ĉ|] − ½ log|C| for Ĉ from S draws of a Gaussian, divided by S (nats).

    S Ĉ is Wishart with S − 1 degrees of freedom, so E log|S Ĉ| − log|C| is
    D log 2 + Σᵢ ψ((S − i)/2), i = 1 … D; for a diagonal, each entry is a χ² of S − 1.

    Examples:
        >>> [round(log_scale_bias(num_samples, 8, "full"), 3) for num_samples in (24, 240, 2400)]
        [-1.07, -0.093, -0.009]
    """
    from scipy.special import digamma  # here, so that importing the package stays quick

    lost = np.arange(1, dim + 1) if covariance == "full" else np.ones(dim)
    terms = digamma((num_samples - lost) / 2.0) + np.log(2.0 / num_samples)
    return float(0.5 * np.sum(terms))


def whiten(z: Array, reference: Gaussian | None) -> Array:
    """z̃ = L⁻¹(z − m): [S, B, D] -> [S, B, D].

    Examples:
        Whitened by their own moments, draws have zero mean and unit covariance:

        >>> z = 3.0 + 0.5 * jax.random.normal(jax.random.key(0), (32, 1, 2))
        >>> whitened = whiten(z, from_moments(sample_moments(z), "full"))
        >>> bool(jnp.allclose(sample_moments(whitened).covariance, jnp.eye(2)[None], atol=1e-5))
        True
    """
    if reference is None:
        return z
    centred = jnp.moveaxis(z - reference.mean[None], 0, -1)
    whitened = jax.scipy.linalg.solve_triangular(reference.scale_tril, centred, lower=True)
    return jnp.moveaxis(whitened, -1, 0)


def unwhiten(z_tilde: Array, reference: Gaussian | None) -> Array:
    """z = m + L z̃: [S, B, D] -> [S, B, D]."""
    if reference is None:
        return z_tilde
    return reference.mean[None] + jnp.einsum("bde,sbe->sbd", reference.scale_tril, z_tilde)


def log_scale(reference: Gaussian | None, like: Array) -> Array:
    """½ log|C| of r(z|x) in nats, [B]; zero for the prior. `like` is z, [S, B, D]."""
    if reference is None:
        return jnp.zeros(like.shape[1], like.dtype)
    diagonal = jnp.diagonal(reference.scale_tril, axis1=-2, axis2=-1)
    return jnp.sum(jnp.log(diagonal), axis=-1)


def log_density(z: Array, reference: Gaussian | None) -> Array:
    """log r(z|x) in nats: [S, B, D] -> [S, B]."""
    return log_prior(whiten(z, reference)) - log_scale(reference, z)[None]


def sample_reference(key: Key, z: Array, own_moments: bool, covariance: str) -> Array:
    """Draws of N(0, I) shaped and typed as z [S, B, D], to contrast z̃ with.

    With `own_moments` they are whitened by their own sample moments, as z̃ was: a Gaussian
    q is then indistinguishable from the reference at any S.
    """
    draws = jax.random.normal(key, z.shape, z.dtype)
    if not own_moments:
        return draws
    return whiten(draws, from_moments(sample_moments(draws), covariance))
