"""The proposal: its density, its draws and its fit."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from avb_jax.evaluation import (
    Proposal,
    fit_proposal,
    log_density_proposal,
    refit_proposal,
    sample_proposal,
)

fit = jax.jit(fit_proposal, static_argnames="inflation")


def make_proposal(dim, degrees):
    mean = jnp.linspace(-1.0, 1.0, dim)[None]
    scale_tril = jnp.tril(2.0 - jnp.eye(dim))[None]
    return Proposal(mean, scale_tril, degrees)


@pytest.mark.parametrize(("dim", "degrees"), [(1, 3), (2, 10), (5, 1), (5, math.inf)])
def test_log_density_is_the_multivariate_t(key, dim, degrees):
    proposal = make_proposal(dim, degrees)
    z = 4.0 * jax.random.normal(key, (50, 1, dim))
    factor = np.asarray(proposal.scale_tril[0], np.float64)
    reference = scipy.stats.multivariate_t(proposal.mean[0], factor @ factor.T, df=degrees)
    found = jax.jit(partial(log_density_proposal, proposal))(z)
    np.testing.assert_allclose(found[:, 0], reference.logpdf(np.asarray(z[:, 0])), rtol=1e-5)


@pytest.mark.parametrize("dim", [1, 2])
def test_density_integrates_to_one(dim):
    """Over z = sinh(u), which reaches the heavy tails: u in [-9, 9]."""
    u = np.linspace(-9.0, 9.0, 1201 if dim == 1 else 601)
    grid = np.stack(np.meshgrid(*[u] * dim), axis=-1).reshape(-1, 1, dim)
    log_density = log_density_proposal(make_proposal(dim, 5), jnp.sinh(jnp.float32(grid)))
    integrand = np.exp(np.asarray(log_density, np.float64)[:, 0]) * np.cosh(grid[:, 0]).prod(-1)
    np.testing.assert_allclose(integrand.sum() * (u[1] - u[0]) ** dim, 1.0, rtol=1e-4)


@pytest.mark.parametrize("degrees", [4, math.inf])
def test_draws_have_the_density(key, degrees):
    """|L⁻¹(z − m)|²/D is F(D, degrees): Kolmogorov and Smirnov's p above 0.001 at 4,000 draws."""
    proposal = make_proposal(3, degrees)
    z = jax.vmap(lambda k: sample_proposal(proposal, k))(jax.random.split(key, 4000))[:, 0]
    whitened = np.linalg.solve(np.asarray(proposal.scale_tril[0]), (z - proposal.mean).T)
    distance = np.sum(whitened**2, axis=0) / 3
    law = scipy.stats.chi2(3, scale=1 / 3) if math.isinf(degrees) else scipy.stats.f(3, degrees)
    assert scipy.stats.kstest(distance, law.cdf).pvalue > 1e-3
    # The signs are symmetric: each coordinate's median is the mean, within 4 standard errors.
    assert np.all(np.abs(np.mean(whitened > 0, axis=1) - 0.5) < 4 * 0.5 / math.sqrt(4000))


def test_fit_has_the_moments_of_the_draws(key):
    mix = jnp.array([[1.0, 0.0], [0.8, 0.2]])
    z = jax.random.normal(key, (500, 2, 2)) @ mix.T + jnp.array([[[3.0, -1.0], [0.0, 5.0]]])
    proposal = fit(z, inflation=1.5)
    for b in range(2):
        np.testing.assert_allclose(proposal.mean[b], np.mean(z[:, b], axis=0), rtol=1e-5)
        covariance = 1.5**2 * np.cov(z[:, b].T, bias=True)
        found = proposal.scale_tril[b] @ proposal.scale_tril[b].T
        np.testing.assert_allclose(found, covariance, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3])
@pytest.mark.parametrize(("draws", "dim"), [(1, 2), (3, 16), (64, 64)])
def test_fit_to_collapsed_draws_is_well_defined(key, draws, dim, scale):
    z = 2.0 + scale * jax.random.normal(key, (draws, 2, dim))
    proposal = fit(z)
    diagonal = np.diagonal(proposal.scale_tril, axis1=-2, axis2=-1)
    assert np.all(np.isfinite(proposal.scale_tril)) and np.all(diagonal > 0)
    if scale == 0 or draws == 1:
        np.testing.assert_allclose(diagonal, 1.2e-3, rtol=1e-3)
    assert np.all(np.isfinite(log_density_proposal(proposal, z)))


def test_refit_has_the_moments_of_the_posterior(key):
    """From a t that is off: of N(0, diag(1, 4)) mean and spread, within 4 standard errors.

    20,000 draws of an effective size of at least 5,000; cut weights count for less than an error.
    """
    scale = jnp.array([1.0, 2.0])
    before = Proposal(jnp.array([[0.5, -1.0]]), 2.0 * jnp.eye(2)[None], 10)
    z = jax.vmap(partial(sample_proposal, before))(jax.random.split(key, 20_000))
    log_w = jnp.sum(-0.5 * jnp.square(z / scale[None, None]), axis=-1) - log_density_proposal(
        before, z
    )
    weight = np.exp(np.asarray(log_w - jnp.max(log_w)))
    effective = weight.sum() ** 2 / (weight**2).sum()
    assert effective > 5000
    after = refit_proposal(before, z, log_w, inflation=1.2)
    assert after.degrees_of_freedom == 10
    assert np.all(np.abs(after.mean[0]) < 4 * scale / effective**0.5)
    spread = np.sqrt(np.diagonal(after.scale_tril[0] @ after.scale_tril[0].T)) / 1.2
    np.testing.assert_allclose(spread, scale, rtol=4 / (2 * effective) ** 0.5)


def test_refit_without_weights_changes_nothing(key):
    before = make_proposal(3, 10)
    z = sample_proposal(before, key)[None]
    after = refit_proposal(before, z, jnp.full((1, 1), -jnp.inf))
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_array_equal(after.scale_tril, before.scale_tril)
