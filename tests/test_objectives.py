"""Critic losses have the optima their table claims; the ELBO's terms are their closed forms."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from avb_jax import objectives
from avb_jax.types import Gaussian, Moments

GRID = np.linspace(-7.0, 7.0, 141)
Q_MEAN, Q_SCALE = 0.5, 0.7


def normalised(log_density: np.ndarray) -> np.ndarray:
    """Quadrature weights: the trapezoid rule, exact to rounding for such densities."""
    return np.exp(log_density) / np.sum(np.exp(log_density))


Q = normalised(scipy.stats.norm.logpdf(GRID, Q_MEAN, Q_SCALE))
R = normalised(scipy.stats.norm.logpdf(GRID))
OPTIMUM = np.log(Q) - np.log(R)
KL = -np.log(Q_SCALE) + 0.5 * (Q_SCALE**2 + Q_MEAN**2 - 1.0)
WIGGLES = (np.full_like(GRID, 0.1), 0.3 * GRID, 0.5 * np.sin(GRID))


@partial(jax.jit, static_argnums=0)
def expected_loss(name: str, table: jax.Array, q: np.ndarray = Q, r: np.ndarray = R) -> jax.Array:
    """E over z_q ~ q and z_r ~ r of the loss of a critic that is a table over the grid."""
    s_q, s_r = jnp.meshgrid(table, table, indexing="ij")
    return q @ objectives.critic_loss(name, s_q, s_r) @ r


@pytest.mark.parametrize("name", ["logistic", "exp"])
def test_the_log_ratio_is_the_only_optimum(name):
    with jax.enable_x64(True):
        gradient = np.asarray(jax.jit(jax.grad(partial(expected_loss, name)))(OPTIMUM))
        hessian = jax.jit(jax.hessian(partial(expected_loss, name)))(OPTIMUM)
        best = float(expected_loss(name, OPTIMUM))
        others = [float(expected_loss(name, OPTIMUM + wiggle)) for wiggle in WIGGLES]
    # Point by point, relative to the mass there: the tails count as much as the mode.
    np.testing.assert_allclose(gradient / (Q + R), 0.0, atol=1e-13)
    diagonal = np.diagonal(hessian)
    np.testing.assert_array_equal(hessian, np.diag(diagonal))
    curvature = Q * R / (Q + R) if name == "logistic" else Q
    np.testing.assert_allclose(diagonal, curvature, rtol=1e-10)
    assert min(others) > best


def test_exp_is_a_lower_bound_of_the_kl():
    with jax.enable_x64(True):
        best = 1.0 - float(expected_loss("exp", OPTIMUM))
        others = [1.0 - float(expected_loss("exp", OPTIMUM + wiggle)) for wiggle in WIGGLES]
        untrained = 1.0 - float(expected_loss("exp", np.zeros_like(GRID)))
    np.testing.assert_allclose(best, KL, rtol=1e-9)
    assert max(others) < KL - 1e-3
    assert untrained == pytest.approx(0.0, abs=1e-14)


def test_logistic_at_its_optimum_is_the_jensen_shannon_divergence():
    middle = 0.5 * (Q + R)
    divergence = 0.5 * (Q @ np.log(Q / middle) + R @ np.log(R / middle))
    with jax.enable_x64(True):
        best = expected_loss("logistic", OPTIMUM)
    np.testing.assert_allclose(best, 2.0 * np.log(2.0) - 2.0 * divergence, rtol=1e-12)


@pytest.mark.parametrize("location, scale", [(0.5, 0.7), (0.0, 1.0), (-2.0, 0.3)])
def test_as_written_has_its_optimum_at_zero_whatever_q_is(location, scale):
    log_q = scipy.stats.norm.logpdf(GRID, location, scale)
    q = normalised(log_q)
    with jax.enable_x64(True):
        slope = jax.grad(expected_loss, argnums=1)
        at_zero = slope("exp_as_written", np.zeros_like(GRID), q)
        claimed = log_q - 1.0  # the optimum that is claimed for it
        at_claimed = slope("exp_as_written", claimed, q)
        of_r = jax.grad(lambda s: jnp.sum(objectives.critic_loss("exp_as_written", claimed, s)))
        np.testing.assert_array_equal(of_r(claimed), 0.0)
    np.testing.assert_allclose(at_zero, 0.0, atol=1e-15)
    # Everywhere else the loss falls towards zero.
    np.testing.assert_allclose(at_claimed, q * np.expm1(claimed), rtol=1e-10, atol=1e-15)
    assert np.all(np.sign(at_claimed) == np.sign(claimed))


def test_losses_are_per_sample_and_by_name():
    s_q, s_r = jnp.array([[0.5, -1.0], [2.0, 0.0]]), jnp.array([[1.0, 0.0], [-3.0, 0.25]])
    a, b = np.asarray(s_q, np.float64), np.asarray(s_r, np.float64)
    expected = {
        "logistic": np.log1p(np.exp(-a)) + np.log1p(np.exp(b)),
        "exp": np.exp(b) - a,
        "exp_as_written": np.exp(a) - a,
    }
    assert set(expected) == set(objectives.CRITIC_LOSSES)
    for name, values in expected.items():
        np.testing.assert_allclose(objectives.critic_loss(name, s_q, s_r), values, rtol=1e-6)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="'hinge'; allowed are logistic, exp, exp_as_written"):
        objectives.critic_loss("hinge", jnp.zeros((1, 1)), jnp.zeros((1, 1)))


def test_only_the_as_written_loss_warns():
    with pytest.warns(UserWarning, match="optimum at T = 0 whatever q is"):
        objectives.warn_if_as_written("exp_as_written")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objectives.warn_if_as_written("logistic")
        objectives.warn_if_as_written("exp")


def gaussians() -> tuple[np.ndarray, np.ndarray]:
    """Means [B, D] and Cholesky factors [B, D, D] of full covariance; B = 2, D = 2."""
    scale_tril = np.array([[[0.7, 0.0], [-0.4, 1.3]], [[0.2, 0.0], [0.9, 0.5]]])
    return np.array([[0.5, -1.0], [0.0, 2.0]]), scale_tril


def test_gaussian_entropy():
    mean, scale_tril = gaussians()
    log_scale = np.log(np.diagonal(scale_tril, axis1=1, axis2=2)).sum(-1)
    covariance = scale_tril @ scale_tril.transpose(0, 2, 1)
    expected = [
        scipy.stats.multivariate_normal.entropy(*q) for q in zip(mean, covariance, strict=True)
    ]
    np.testing.assert_allclose(objectives.gaussian_entropy(log_scale, 2), expected, rtol=1e-6)


def test_kl_to_prior_value():
    """Against Gauss-Hermite quadrature of log q − log p, exact for a quadratic."""
    mean, scale_tril = gaussians()
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    noise = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    weights = np.outer(weights, weights).reshape(-1) / (2.0 * np.pi)
    expected = []
    for m, factor in zip(mean, scale_tril, strict=True):
        z = m + noise @ factor.T
        log_q = scipy.stats.multivariate_normal.logpdf(z, m, factor @ factor.T)
        expected.append(weights @ (log_q - scipy.stats.norm.logpdf(z).sum(-1)))
    with jax.enable_x64(True):
        value = objectives.kl_to_prior(Gaussian(jnp.asarray(mean), jnp.asarray(scale_tril)))
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_kl_to_prior_gradient():
    """∂/∂m = m and ∂/∂L = L − diag(1/L): zero at the prior alone."""
    mean, scale_tril = gaussians()
    with jax.enable_x64(True):
        q = Gaussian(jnp.asarray(mean), jnp.asarray(scale_tril))
        gradient = jax.jit(jax.grad(lambda q: jnp.sum(objectives.kl_to_prior(q))))(q)
    inverse = np.stack([np.diag(1.0 / np.diagonal(factor)) for factor in scale_tril])
    np.testing.assert_allclose(gradient.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(gradient.scale_tril, scale_tril - inverse, rtol=1e-12, atol=1e-14)


def test_cross_entropy_to_prior():
    """KL(q‖p) = −H(q) − E_q log p, for a Gaussian; and its gradient: m, and half the identity."""
    mean, scale_tril = gaussians()
    covariance = scale_tril @ scale_tril.transpose(0, 2, 1)
    log_scale = np.log(np.diagonal(scale_tril, axis1=1, axis2=2)).sum(-1)
    with jax.enable_x64(True):
        q = Moments(jnp.asarray(mean), jnp.asarray(covariance))
        value = objectives.cross_entropy_to_prior(q)
        entropy = objectives.gaussian_entropy(jnp.asarray(log_scale), 2)
        kl = objectives.kl_to_prior(Gaussian(q.mean, jnp.asarray(scale_tril)))
        gradient = jax.grad(lambda q: jnp.sum(objectives.cross_entropy_to_prior(q)))(q)
    np.testing.assert_allclose(value - entropy, kl, rtol=1e-12)
    np.testing.assert_allclose(gradient.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(gradient.covariance, [0.5 * np.eye(2)] * 2, atol=1e-14)


@pytest.mark.parametrize("location, scale", [(0.5, 0.7), (-1.0, 1.5)])
@pytest.mark.parametrize("r", [scipy.stats.norm(0.0, 1.0), scipy.stats.t(5.0)])
def test_balance_is_zero_at_the_truth(location, scale, r):
    """By the midpoint rule over quantiles, for which sample means are the integrals."""
    levels = (np.arange(40_000) + 0.5) / 40_000
    q = scipy.stats.norm(location, scale)

    def ratio(z):
        return q.logpdf(z) - r.logpdf(z)

    with jax.enable_x64(True):
        s_q, s_r = jnp.asarray(ratio(q.ppf(levels))), jnp.asarray(ratio(r.ppf(levels)))
        assert abs(objectives.balance(s_q, s_r)) < 1e-5
        assert objectives.balance(s_q + 0.5, s_r + 0.5) < -0.05
