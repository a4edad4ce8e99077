"""Mixtures of Gaussians against their closed form, and EM against what it must do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from avb_jax import gaussian_mixture
from avb_jax.gaussian_mixture import GaussianMixture, log_density, sample
from avb_jax.types import Gaussian

DRAWS = 16_384
WEIGHT = np.array([0.2, 0.5, 0.3])
MEAN = np.array([[-1.5, 0.0], [0.5, 1.0], [0.5, -1.0]])
FACTOR = np.array([[[0.4, 0.0], [0.1, 0.3]], [[0.2, 0.0], [-0.3, 0.4]], [[0.5, 0.0], [0.0, 0.2]]])


@pytest.fixture
def mixture():
    components = Gaussian(jnp.asarray(MEAN, jnp.float32), jnp.asarray(FACTOR, jnp.float32))
    return GaussianMixture(jnp.log(jnp.asarray(WEIGHT, jnp.float32)), components)


def truth(z: np.ndarray) -> np.ndarray:
    parts = zip(WEIGHT, MEAN, FACTOR, strict=True)
    densities = [w * scipy.stats.multivariate_normal(m, f @ f.T).pdf(z) for w, m, f in parts]
    return np.log(np.sum(densities, axis=0))


def test_the_density_is_the_weighted_sum_of_its_components(mixture):
    z = np.random.default_rng(0).normal(size=(5, 7, 2)).astype(np.float32)
    np.testing.assert_allclose(log_density(mixture, jnp.asarray(z)), truth(z), atol=1e-4)


def test_the_gradient_of_the_density_is_that_of_the_closed_form(mixture):
    """∇ log Σ_k w_k N_k = Σ_k (share of k) C_k⁻¹ (m_k − z)."""
    z = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    found = jax.grad(lambda z: jnp.sum(log_density(mixture, z)))(jnp.asarray(z))
    pulls, logs = [], []
    for w, m, f in zip(WEIGHT, MEAN, FACTOR, strict=True):
        logs.append(np.log(w) + scipy.stats.multivariate_normal(m, f @ f.T).logpdf(z))
        pulls.append((m - z) @ np.linalg.inv(f @ f.T))
    share = scipy.special.softmax(np.array(logs), axis=0)
    np.testing.assert_allclose(found, np.einsum("kn,knd->nd", share, pulls), rtol=1e-3, atol=1e-3)


def test_draws_are_of_the_density(mixture):
    """Mean, covariance and E log q of 16,384 draws, to 4.5 standard errors."""
    z = np.asarray(sample(mixture, jax.random.key(0), (DRAWS, 2)), np.float64)
    mean = WEIGHT @ MEAN
    squares = np.einsum("k,kde->de", WEIGHT, FACTOR @ FACTOR.transpose(0, 2, 1))
    second = squares + np.einsum("k,kd,ke->de", WEIGHT, MEAN, MEAN)
    products = np.einsum("nd,ne->nde", z, z)
    error = 4.5 / DRAWS**0.5
    assert np.all(np.abs(z.mean(0) - mean) < error * z.std(0))
    assert np.all(np.abs(products.mean(0) - second) < error * products.std(0))
    other = np.asarray(sample(mixture, jax.random.key(1), (8, 3, 2)))
    assert other.shape == (8, 3, 2) and np.isfinite(truth(other)).all()


def test_a_fit_finds_the_mixture(mixture):
    """Four components for the three: 2 n KL is χ² of as many degrees as they have parameters.

    Those are 4 × 6 − 1, so that KL is below 0.0018 nats but once in a thousand.
    """
    keys = jax.random.split(jax.random.key(2), 4)
    z, held_out, fresh = (sample(mixture, key, (DRAWS, 2)) for key in keys[:3])
    fit = gaussian_mixture.fit(keys[3], z, held_out)
    assert len(fit.log_weight) == 4
    assert float(jnp.sum(jnp.exp(fit.log_weight))) == pytest.approx(1.0, abs=1e-5)
    shortfall = np.asarray(log_density(mixture, fresh) - log_density(fit, fresh), np.float64)
    assert shortfall.mean() < 0.0018 + 4.0 * shortfall.std() / DRAWS**0.5


def test_a_gaussian_is_one_component_of_its_moments():
    """Which are those of the draws, but for the one draw of N(0, I) that each component counts."""
    keys = jax.random.split(jax.random.key(3))
    z, held_out = (1.0 + 0.5 * jax.random.normal(key, (DRAWS, 3)) for key in keys)
    fit = gaussian_mixture.fit(keys[0], z, held_out)
    assert len(fit.log_weight) == 1
    np.testing.assert_allclose(fit.components.mean[0], z.mean(0), atol=1e-3)
    factor = fit.components.scale_tril[0]
    np.testing.assert_allclose(factor @ factor.T, np.cov(z.T), atol=1e-3)


def test_few_draws_leave_every_component_finite():
    keys = jax.random.split(jax.random.key(4))
    z, held_out = (jax.random.normal(key, (20, 5)) for key in keys)
    fit = gaussian_mixture.fit(keys[0], z, held_out)
    assert np.isfinite(log_density(fit, held_out)).all()
