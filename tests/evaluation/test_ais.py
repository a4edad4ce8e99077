"""Annealed importance sampling against exact likelihoods: values, directions, and its settings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from avb_jax.densities import LOG_2PI, log_prior
from avb_jax.evaluation import (
    MESCHEDER2017,
    AISSettings,
    ais_log_likelihood,
    ais_upper_bound,
    evaluate_ais,
    importance_log_likelihood,
    iwae_bound,
)
from avb_jax.evaluation.annealing import PRIOR_SHARE, SCHEDULES, schedule

B, D, N = 24, 2, 3  # N: how many more pixels than latents
SIGMAS = 3.0  # tolerated standard errors, at fixed seeds
BRIEF = AISSettings(num_temperatures=60, num_chains=4, num_leapfrog=2, num_fit=64)
FAST = ("defensive", "gaussian")  # the default, and one that is fitted alone


class LinearGaussian(NamedTuple):
    """z ~ N(0, I), x|z ~ N(W z, s² I); q is 0.6 times too narrow, and off its mark by 0.5."""

    def log_joint(self, params, x, z):
        weight, scale = params
        residual = (x[None] - jnp.einsum("nd,sbd->sbn", weight, z)) / scale
        log_likelihood = -0.5 * jnp.sum(jnp.square(residual) + LOG_2PI, axis=-1)
        return log_likelihood - len(weight) * jnp.log(scale) + log_prior(z)

    def sample_posterior(self, params, key, x, num_samples):
        weight, scale = params
        covariance = jnp.linalg.inv(jnp.eye(weight.shape[1]) + weight.T @ weight / scale**2)
        mean = x @ weight @ covariance / scale**2
        noise = 0.6 * jax.random.normal(key, (num_samples, *mean.shape)) + 0.5
        return mean[None] + noise @ jnp.linalg.cholesky(covariance).T


def simulated(seed: int, dim: int = D, count: int = B):
    """A model, its parameters, x and z that it made, and log p(x)."""
    keys = jax.random.split(jax.random.key(seed), 3)
    size = N + dim
    weight, scale = jax.random.normal(keys[0], (size, dim)) * (2.0 / dim) ** 0.5, jnp.float32(0.6)
    z = jax.random.normal(keys[1], (count, dim))
    x = z @ weight.T + scale * jax.random.normal(keys[2], (count, size))
    covariance = np.asarray(weight @ weight.T + scale**2 * jnp.eye(size), np.float64)
    exact = scipy.stats.multivariate_normal(np.zeros(size), covariance).logpdf(np.asarray(x))
    return LinearGaussian(), (weight, scale), x, z, exact


def error(result, exact) -> tuple[float, float]:
    """Mean over x of a bound less the truth, and its standard error, nats."""
    difference = np.asarray(result.log_likelihood, np.float64) - exact
    return difference.mean(), difference.std() / len(exact) ** 0.5


@pytest.mark.parametrize(
    "start", [pytest.param(s, marks=() if s in FAST else pytest.mark.slow) for s in PRIOR_SHARE]
)
def test_the_bounds_are_on_their_sides_of_the_truth(start):
    """Within 3 standard errors, and within 0.02 nats besides, but for the path from the prior."""
    model, params, x, z, exact = simulated(0)
    settings = BRIEF._replace(start=start)
    lower = ais_log_likelihood(model, params, jax.random.key(1), x, settings=settings)
    upper = ais_upper_bound(model, params, jax.random.key(2), x, z, settings=settings)
    below, above = error(lower, exact), error(upper, exact)
    assert below[0] < SIGMAS * below[1] and above[0] > -SIGMAS * above[1]
    assert error(lower, np.asarray(upper.log_likelihood))[0] < SIGMAS * (below[1] + above[1])
    if start != "prior":
        assert below[0] > -0.02 - SIGMAS * below[1] and above[0] < 0.02 + SIGMAS * above[1]
        assert np.mean(lower.effective_sample_size) > 2.5
    for result in (lower, upper):
        assert np.all((result.acceptance > 0.45) & (result.acceptance < 0.95))
        assert np.all(
            (result.effective_sample_size >= 0.99) & (result.effective_sample_size < 4.01)
        )


def test_gradients_are_those_of_the_log_likelihood():
    """Of both bounds, in W and in the noise: over 96 x, within 3 standard errors of 24 such x.

    So 6 of theirs: of 22 numbers by 24 x one is beyond 3 in every tenth set of draws, and rounding
    alone decides which those are. It lets a move pass on one machine and not on another.
    """
    model, params, x, z, _ = simulated(2, count=4 * B)

    def exact(params, x):
        weight, scale = params
        covariance = weight @ weight.T + jnp.square(scale) * jnp.eye(len(weight))
        return jax.scipy.stats.multivariate_normal.logpdf(x, jnp.zeros(len(weight)), covariance)

    with jax.numpy_rank_promotion("allow"):
        truth = jax.jacobian(lambda p: jax.vmap(exact, (None, 0))(p, x))(params)
    lower, upper = (
        lambda p: ais_log_likelihood(model, p, jax.random.key(1), x, settings=BRIEF),
        lambda p: ais_upper_bound(model, p, jax.random.key(2), x, z, settings=BRIEF),
    )
    for bound in (lower, upper):
        found = jax.jacrev(lambda p, bound=bound: bound(p).log_likelihood)(params)
        for ours, theirs in zip(found, truth, strict=True):
            error = np.asarray(ours - theirs, np.float64).reshape(len(x), -1)
            assert np.all(np.abs(error.mean(axis=0)) < SIGMAS * error.std(axis=0) / B**0.5 + 1e-3)
            assert np.std(error) < np.std(theirs)


@pytest.mark.slow
def test_in_double_precision():
    """The bound is of the chains' dtype, within 3 standard errors and 0.02 nats besides."""
    model, params, x, _, exact = simulated(0)
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda a: a.astype(jnp.float64), (params, x))
        result = ais_log_likelihood(model, params, jax.random.key(1), x, settings=BRIEF)
    assert all(a.dtype == np.float64 for a in result)
    mean, stderr = error(result, exact)
    assert abs(mean) < SIGMAS * stderr + 0.02


@pytest.mark.slow
def test_more_temperatures_are_nearer_to_the_truth():
    """From the prior, the farthest start, without jumps."""
    model, params, x, _, exact = simulated(1)
    gaps = []
    for num_temperatures in (4, 200):
        settings = BRIEF._replace(
            num_temperatures=num_temperatures, start="prior", schedule="linear", jump_interval=0
        )
        result = ais_log_likelihood(model, params, jax.random.key(0), x, settings=settings)
        gaps.append(-error(result, exact)[0])
    assert gaps[0] > 4.0 * gaps[1] and gaps[1] < 0.2


def test_each_data_point_is_annealed_by_a_key_of_its_own():
    """Its bound does not depend on the others, and equal x have different chains."""
    model, params, x, _, _ = simulated(0)
    settings, key = BRIEF._replace(num_temperatures=10), jax.random.key(3)
    first = ais_log_likelihood(model, params, key, x, settings=settings).log_likelihood
    equal = jnp.repeat(x[:1], B, axis=0)
    second = ais_log_likelihood(model, params, key, equal, settings=settings).log_likelihood
    assert first[0] == second[0]
    assert len(np.unique(second)) == B


class TwoModes(NamedTuple):
    """p(x|z) = ½ N(z; −x, s² I) + ½ N(z; x, s² I) in two dimensions; q has the mode at x alone."""

    scale: float

    def log_joint(self, params, x, z):
        squares = jnp.stack([jnp.sum(jnp.square(z - at[None]), axis=-1) for at in (x, -x)])
        log_densities = -0.5 * squares / self.scale**2 - 2.0 * jnp.log(self.scale) - LOG_2PI
        return jax.nn.logsumexp(log_densities, axis=0) - jnp.log(2.0) + log_prior(z)

    def sample_posterior(self, params, key, x, num_samples):
        variance = self.scale**2 / (1.0 + self.scale**2)
        noise = jax.random.normal(key, (num_samples, *x.shape))
        return x[None] / (1.0 + self.scale**2) + variance**0.5 * noise


@pytest.mark.slow
def test_a_mode_that_q_has_not_is_found():
    """log p(x) is log N(x; 0, (1 + s²) I): half of it is out of sight of q and of local moves."""
    model, x = TwoModes(0.1), 0.5 * jnp.ones((B, 2))
    exact = scipy.stats.multivariate_normal(np.zeros(2), 1.01 * np.eye(2)).logpdf(np.asarray(x))
    settings = AISSettings(num_temperatures=300, num_chains=8, num_leapfrog=2, num_fit=64)
    found, local = (
        error(ais_log_likelihood(model, None, jax.random.key(0), x, settings=s), exact)
        for s in (settings, settings._replace(jump_interval=0, start="student"))
    )
    assert abs(found[0]) < SIGMAS * found[1] + 0.05
    assert abs(local[0] + np.log(2.0)) < SIGMAS * local[1] + 0.05


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_rise_from_0_to_1(name):
    at = jnp.linspace(0.0, 1.0, 11)[1:]
    betas = np.asarray(schedule(name, 50, at, jnp.full(10, 3.0)))
    assert betas.shape == (51,) and betas[0] == 0.0 and betas[-1] == 1.0
    assert np.all(np.diff(betas) > 0.0)
    expected = {"linear": (1.0, 1.0), "sigmoidal": (0.0, 0.3), "adaptive": (0.99, 1.01)}[name]
    assert expected[0] <= betas[1] * 50 + 1e-6 and betas[1] * 50 <= expected[1] + 1e-6


def test_the_adaptive_schedule_is_slow_where_the_spread_is_large():
    """Ten times the spread below β = ½: ten times as many steps there."""
    at = jnp.linspace(0.0, 1.0, 101)[1:]
    betas = np.asarray(schedule("adaptive", 1100, at, jnp.where(at < 0.505, 10.0, 1.0)))
    assert np.sum(betas < 0.5) == pytest.approx(1000, abs=15)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"num_temperatures": 1}, "num_temperatures was 1; allowed is 2 or more"),
        ({"num_chains": 0}, "num_chains was 0; allowed is 1 or more"),
        ({"schedule": "steep"}, "schedule was 'steep'; allowed are linear"),
        ({"jump_interval": -1}, "jump_interval was -1; allowed is 0 or more"),
        ({"start": "q"}, "start was 'q'; allowed are defensive"),
    ],
)
def test_wrong_settings_are_one_sentence(change, message):
    model, params, x, _, _ = simulated(0)
    with pytest.raises(ValueError, match=message):
        ais_log_likelihood(model, params, jax.random.key(0), x, settings=BRIEF._replace(**change))


def test_the_authors_protocol():
    assert MESCHEDER2017[:3] == (1000, 8, 11) and MESCHEDER2017.start == "gaussian"


def test_a_test_set_is_annealed_in_batches():
    """By the keys of `ais_log_likelihood`; in batches of another size rounding parts the chains."""
    model, params, x, _, _ = simulated(0)
    settings = BRIEF._replace(
        num_temperatures=10, schedule="linear", start="student", jump_interval=0
    )
    key = jax.random.key(3)
    whole, parts = (
        evaluate_ais(
            model,
            params,
            key,
            np.asarray(x[:10]),
            settings=settings,
            batch_size=size,
            progress=False,
        )  # fmt: skip
        for size in (10, 4)
    )
    direct = ais_log_likelihood(model, params, key, x[:10], settings=settings)
    for name, values in direct._asdict().items():
        np.testing.assert_array_equal(whole[name], values)
        assert parts[name].shape == (10,)
    assert np.median(np.abs(parts["log_likelihood"] - whole["log_likelihood"])) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 8, 32])
def test_every_bound_on_twenty_random_models(dim):
    """AIS within 0.02 nats at 1,000 temperatures and 16 chains; no bound on the wrong side.

    Of 8 x from each model; three standard errors over all of them, and four over each model's own,
    for of the 240 comparisons with those one or another is beyond three by chance.
    """
    settings = AISSettings(num_temperatures=1000, num_chains=16)
    errors = {"importance": [], "iwae": [], "ais": [], "bdmc": []}
    for seed in range(20):
        model, params, x, z, exact = simulated(seed, dim, 8)
        keys = jax.random.split(jax.random.key(1000 + seed), 4)
        found = {
            "importance": importance_log_likelihood(model, params, keys[0], x),
            "iwae": iwae_bound(model, params, keys[1], x, num_samples=50),
            "ais": ais_log_likelihood(model, params, keys[2], x, settings=settings),
            "bdmc": ais_upper_bound(model, params, keys[3], x, z, settings=settings),
        }
        for name, result in found.items():
            errors[name].append(np.asarray(result.log_likelihood, np.float64) - exact)
    for name, of_models in errors.items():
        of_models = np.stack(of_models)
        side = -1.0 if name == "bdmc" else 1.0
        for values, sigmas in ((of_models, SIGMAS), *((of_one, 4.0) for of_one in of_models)):
            error = of_models.std() / values.size**0.5
            assert side * values.mean() < sigmas * error, (name, values.mean(), error)
        print(f"D = {dim}, {name}: {of_models.mean():+.4f} ± {of_models.std() / 160**0.5:.4f}")
    assert abs(np.mean(errors["ais"])) < 0.02
