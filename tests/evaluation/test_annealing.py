"""Annealing where the posterior has a hard support, so that many chains start where it is 0."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from avb_jax.densities import log_prior
from avb_jax.evaluation import AISSettings, ais_log_likelihood, ais_upper_bound
from avb_jax.evaluation.annealing import schedule

HALF, B = 0.5, 64
SIGMAS = 4.0  # tolerated standard errors, over 64 x, at fixed seeds
BRIEF = AISSettings(num_temperatures=40, num_chains=16, num_leapfrog=2, num_fit=64)


class UniformNoise(NamedTuple):
    """z ~ N(0, 1), x|z ~ U(z − ½, z + ½), its log height a parameter; q is N(x, 1), |x| <= 3."""

    def log_joint(self, log_height, x, z):
        inside = jnp.abs(x[None] - z)[..., 0] < HALF
        return jnp.where(inside, log_height, -jnp.inf) + log_prior(z)

    def sample_posterior(self, log_height, key, x, num_samples):
        noise = jax.random.normal(key, (num_samples, *x.shape))
        return jnp.clip(x, -3.0, 3.0)[None] + noise


def simulated():
    """z and the x that it made, and log p(x), [B]."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((B, 1))
    x = z + rng.uniform(-HALF, HALF, (B, 1))
    exact = np.log(stats.norm.cdf(x[:, 0] + HALF) - stats.norm.cdf(x[:, 0] - HALF))
    return jnp.asarray(z, jnp.float32), jnp.asarray(x, jnp.float32), exact


@pytest.mark.slow
def test_bounds_under_a_hard_support():
    """The mean of exp(lower − log p) is 1, of exp(log p − upper) at most 1; a height's slope is 1.

    One more x, that no z reaches, has probability 0.
    """
    z, x, exact = simulated()
    model, height = UniformNoise(), jnp.float32(-math.log(2.0 * HALF))

    more = jnp.concatenate([x, jnp.full((1, 1), 50.0)])

    def lower(height):
        result = ais_log_likelihood(model, height, jax.random.key(1), more, settings=BRIEF)
        return jnp.sum(result.log_likelihood), result

    (_, below), slope = jax.value_and_grad(lower, has_aux=True)(height)
    above = ais_upper_bound(model, height, jax.random.key(2), x, z, settings=BRIEF)
    assert below.log_likelihood[-1] == -jnp.inf and slope == pytest.approx(B, rel=1e-5)
    ratio = np.exp(np.asarray(below.log_likelihood[:-1], np.float64) - exact)
    assert abs(ratio.mean() - 1.0) < SIGMAS * ratio.std() / B**0.5 and ratio.std() < 0.5
    ratio = np.exp(exact - np.asarray(above.log_likelihood, np.float64))
    assert 0.1 < ratio.mean() < 1.0 + SIGMAS * ratio.std() / B**0.5
    assert all(np.all(np.isfinite(result.acceptance)) for result in (below, above))


def test_a_schedule_without_a_spread_is_linear():
    """Of a pilot that saw one ratio, or no finite one."""
    at = jnp.linspace(0.0, 1.0, 11)[1:]
    betas = schedule("adaptive", 50, at, jnp.zeros(10))
    np.testing.assert_allclose(betas, np.linspace(0.0, 1.0, 51), atol=1e-6)
