"""Densities sum or integrate to one, and equal SciPy's, in value and in gradient."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from avb_jax.densities import LIKELIHOODS, log_prior

FLOOR = 1.0 / 1024.0  # the least scale that the decoders give
LOCATIONS = (-3.0, 0.0, 0.3, 127.5 / 255, 1.0, 5.0)


def pixels(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Locations [S, B, h, w, c], log scales [c] and levels x [B, h, w, c], black and white too."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (2, 3, 4, 3))
    x[0, 0, 0], x[1, 0, 0] = 0, 255
    return rng.uniform(0.0, 1.0, (5, 2, 3, 4, 3)), np.log([0.05, 0.2, 1.0]), x / 255.0


def test_log_prior_integrates_to_one():
    axis = np.linspace(-9.0, 9.0, 181)
    z = np.stack(np.meshgrid(axis, axis), -1)
    with jax.enable_x64(True):
        log_density = log_prior(jnp.asarray(z))
    assert log_density.shape == (181, 181)
    np.testing.assert_allclose(np.exp(log_density).sum() * 0.1**2, 1.0, rtol=1e-10)
    expected = scipy.stats.multivariate_normal.logpdf(z, np.zeros(2))
    np.testing.assert_allclose(log_density, expected, rtol=1e-12)


def test_bernoulli_against_enumeration():
    """All 64 images of 1 x 3 x 2 pixels: each one's probability is a product; their sum one."""
    x = jnp.array(list(itertools.product([0.0, 1.0], repeat=6))).reshape(64, 1, 3, 2)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1, 1, 3, 2)), jnp.float32)
    likelihood = LIKELIHOODS["bernoulli"]
    log_prob = likelihood.log_prob(jnp.broadcast_to(logits, (4, 64, 1, 3, 2)), x)
    on = np.asarray(likelihood.mean(logits))
    expected = np.prod(np.where(np.asarray(x) == 1.0, on, 1.0 - on), axis=(2, 3, 4))
    assert log_prob.shape == (4, 64)
    np.testing.assert_allclose(np.exp(log_prob), expected, rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_prob).sum(1), 1.0, rtol=1e-5)


def test_bernoulli_gradient_is_x_less_the_mean():
    likelihood = LIKELIHOODS["bernoulli"]
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 2, 4, 4, 1)).astype(np.float32)
    logits[0] *= 100.0
    x = rng.integers(0, 2, (2, 4, 4, 1)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda logits: jnp.sum(likelihood.log_prob(logits, x))))(logits)
    np.testing.assert_allclose(gradient, x - np.asarray(likelihood.mean(logits)), atol=1e-6)


def test_gaussian_is_scipys():
    location, log_scale, x = pixels()
    with jax.enable_x64(True):
        outputs = (jnp.asarray(location), jnp.asarray(log_scale))
        log_prob = jax.jit(LIKELIHOODS["gaussian"].log_prob)(outputs, jnp.asarray(x))
    expected = scipy.stats.norm.logpdf(x, location, np.exp(log_scale)).sum((2, 3, 4))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-12)


def test_gaussian_gradient_in_closed_form():
    location, log_scale, x = pixels()
    with jax.enable_x64(True):
        outputs = (jnp.asarray(location), jnp.asarray(log_scale))
        total = lambda o: jnp.sum(LIKELIHOODS["gaussian"].log_prob(o, jnp.asarray(x)))  # noqa: E731
        of_location, of_log_scale = jax.jit(jax.grad(total))(outputs)
    scale = np.exp(log_scale)
    standardised = (x - location) / scale
    np.testing.assert_allclose(of_location, standardised / scale, rtol=1e-10)
    np.testing.assert_allclose(of_log_scale, (standardised**2 - 1.0).sum((0, 1, 2, 3)), rtol=1e-10)


@partial(jax.jit, static_argnums=1)
def logistic_levels(scale: float, dtype: jnp.dtype) -> jax.Array:
    """Log probabilities of the 256 levels of one pixel at each of LOCATIONS, [6, 256]."""
    x = (jnp.arange(256, dtype=dtype) / 255).reshape(256, 1, 1, 1)
    location = jnp.asarray(LOCATIONS, dtype).reshape(-1, 1, 1, 1, 1)
    log_scale = jnp.log(jnp.asarray(scale, dtype)).reshape(1)
    return LIKELIHOODS["logistic"].log_prob((location, log_scale), x)


@pytest.mark.parametrize("scale", [FLOOR, 0.02, 0.3, 50.0])
def test_logistic_levels_sum_to_one(scale):
    with jax.enable_x64(True):
        double = logistic_levels(scale, jnp.float64)
    single = logistic_levels(scale, jnp.float32)
    assert np.all(np.isfinite(double)) and np.all(np.isfinite(single))
    np.testing.assert_allclose(np.exp(double).sum(1), 1.0, rtol=1e-10)
    np.testing.assert_allclose(np.exp(single).sum(1), 1.0, rtol=1e-4)


def test_logistic_is_the_mass_of_each_bin():
    location, log_scale, x = pixels()
    with jax.enable_x64(True):
        outputs = (jnp.asarray(location), jnp.asarray(log_scale))
        log_prob = jax.jit(LIKELIHOODS["logistic"].log_prob)(outputs, jnp.asarray(x))
    upper = np.where(x == 1.0, np.inf, x + 0.5 / 255)
    lower = np.where(x == 0.0, -np.inf, x - 0.5 / 255)
    density = scipy.stats.logistic(location, np.exp(log_scale))
    expected = np.log(density.cdf(upper) - density.cdf(lower)).sum((2, 3, 4))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-10)


def test_logistic_gradient_by_finite_difference():
    location, log_scale, x = pixels()
    with jax.enable_x64(True):
        outputs = (jnp.asarray(location), jnp.asarray(log_scale))
        log_prob = lambda o: LIKELIHOODS["logistic"].log_prob(o, jnp.asarray(x))  # noqa: E731
        check_grads(jax.jit(log_prob), (outputs,), order=1, modes=["rev"])


def test_logistic_gradient_is_finite_and_points_home_at_the_least_scale():
    """In float32, at a scale that puts far levels thousands of scales away."""
    x = np.arange(256) / 255
    location = np.array(LOCATIONS)[:, None]
    outputs = jnp.broadcast_to(
        location.astype(np.float32)[..., None, None, None], (6, 256, 1, 1, 1)
    )

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradient(location, log_scale):
        pixels = jnp.asarray(x, jnp.float32).reshape(256, 1, 1, 1)
        return jnp.sum(LIKELIHOODS["logistic"].log_prob((location, log_scale), pixels))

    of_location, of_log_scale = gradient(outputs, jnp.full(1, math.log(FLOOR)))
    assert np.all(np.isfinite(of_location)) and np.all(np.isfinite(of_log_scale))
    slope = np.asarray(of_location)[..., 0, 0, 0]
    assert np.all(np.abs(slope) <= 1.001 / FLOOR)
    # Towards the level, save that an outermost bin holds all the mass of a location beyond it.
    satisfied = ((x == 0.0) & (location <= 0.0)) | ((x == 1.0) & (location >= 1.0))
    away = (np.abs(x - location) > 2.0 / 255) & ~satisfied
    np.testing.assert_array_equal(np.sign(slope)[away], np.sign(x - location)[away])


def test_means_are_pixels():
    location = jnp.array([-0.5, 0.25, 1.5]).reshape(1, 1, 3, 1, 1)
    for name in ("gaussian", "logistic"):
        mean = LIKELIHOODS[name].mean((location, jnp.zeros(1)))
        np.testing.assert_array_equal(np.ravel(mean), [0.0, 0.25, 1.0])
        assert LIKELIHOODS[name].has_scale
    assert not LIKELIHOODS["bernoulli"].has_scale


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_have_the_density(name):
    """E over draws of exp(log p'(x) − log p(x)) is 1 for another density p' of the same family."""
    likelihood = LIKELIHOODS[name]
    location, other = jnp.full((1, 1, 1, 1, 1), 0.45), jnp.full((1, 1, 1, 1, 1), 0.48)
    outputs, others = location, other
    if likelihood.has_scale:
        outputs, others = (location, jnp.array([-2.0])), (other, jnp.array([-2.2]))
    repeated = jax.tree.map(
        lambda a: jnp.tile(a, (1, 20_000, 1, 1, 1)) if a.ndim == 5 else a, outputs
    )
    x = likelihood.draw(jax.random.key(0), repeated)[0]
    log_ratio = likelihood.log_prob(others, x) - likelihood.log_prob(outputs, x)
    ratio = np.exp(np.asarray(log_ratio[0], np.float64))
    assert x.shape == (20_000, 1, 1, 1) and ratio.std() > 0.01
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std() / 20_000**0.5
