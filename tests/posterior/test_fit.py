"""Implicit posteriors of densities with known moments and normalisers; errors; saving."""

import copy
import importlib
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avb_jax as avb
from avb_jax.posterior import Settings, fitted
from avb_jax.posterior.coordinates import Coordinates, Start
from avb_jax.posterior.transitions import Transitions, number_needed, settle, transit

module = importlib.import_module("avb_jax.posterior.fit")  # whose name is that of its function
QUICK = Settings(num_steps=300, num_samples=128, width=16, depth=1, transitions=4, leapfrog=4)
MEAN = np.array([3.0, -1.0])
COVARIANCE = np.array([[4.0, 0.6], [0.6, 0.25]])
LOG_MASS = 1.5
N, SIGMAS = 4000, 4.0  # draws; tolerated standard errors, at fixed seeds


def gaussian(z):
    """e^1.5 N(z; MEAN, COVARIANCE)."""
    centred = z - jnp.asarray(MEAN, jnp.float32)
    inverse = jnp.asarray(np.linalg.inv(COVARIANCE), jnp.float32)
    log_scale = 0.5 * np.linalg.slogdet(2.0 * np.pi * COVARIANCE)[1]
    return LOG_MASS - 0.5 * centred @ inverse @ centred - log_scale


@pytest.fixture(scope="module")
def posterior():
    return avb.posterior.fit(gaussian, 2, jax.random.key(0), settings=QUICK)


def test_draws_have_the_moments_of_the_density(posterior):
    z = np.asarray(posterior.sample(jax.random.key(1), N))
    scale = np.sqrt(np.diag(COVARIANCE))
    assert z.shape == (N, 2)
    error = np.abs(z.mean(axis=0) - MEAN) / scale
    assert np.all(error < SIGMAS / N**0.5 + 0.02), error
    ratios = np.cov(z.T) / np.outer(scale, scale)
    expected = COVARIANCE / np.outer(scale, scale)
    np.testing.assert_allclose(ratios, expected, atol=SIGMAS * (2.0 / N) ** 0.5 + 0.03)


def test_the_evidence_is_a_bound_near_the_mass(posterior):
    found = posterior.log_evidence(jax.random.key(2), N)
    assert LOG_MASS - 0.05 < found < LOG_MASS + 0.05


def test_the_same_key_gives_the_same_draws(posterior):
    first, second = (posterior.sample(jax.random.key(3), n) for n in (1500, 10))
    np.testing.assert_array_equal(first[:10], second)
    again = posterior.sample(jax.random.key(3), 1500)
    np.testing.assert_array_equal(first, again)


def test_a_saved_posterior_is_given_back(posterior, tmp_path):
    posterior.save(tmp_path / "fit")
    loaded = avb.posterior.load(tmp_path / "fit", gaussian)
    key = jax.random.key(4)
    np.testing.assert_array_equal(posterior.sample(key, 5), loaded.sample(key, 5))
    assert loaded.settings == QUICK
    with pytest.raises(ValueError, match="holds no posterior"):
        avb.posterior.load(tmp_path, gaussian)


def test_a_posterior_saved_over_another_is_the_new_one(posterior, tmp_path):
    posterior.save(tmp_path / "fit")
    moved = copy.copy(posterior)
    moved.params = jax.tree.map(lambda leaf: leaf + 1.0, posterior.params)
    moved.save(tmp_path / "fit")
    loaded = avb.posterior.load(tmp_path / "fit", gaussian)
    chex.assert_trees_all_equal(loaded.params, moved.params)
    assert len([path for path in (tmp_path / "fit").iterdir() if path.name.isdigit()]) == 1


@pytest.mark.slow
def test_the_elbo_lies_between_its_bounds_and_below_the_mass(posterior):
    """log q̂ is exact to 0.05 nats in the mean, and the bounds hold to 3 standard errors."""
    elbo = posterior.elbo(jax.random.key(5))
    assert elbo.lower < elbo.upper + 3.0 * elbo.stderr
    assert elbo.lower < LOG_MASS + 0.01
    assert abs(elbo.estimate - LOG_MASS) < 0.05 + 3.0 * elbo.stderr
    assert posterior.pareto_k(jax.random.key(6)) < 0.7
    z = posterior.sample(jax.random.key(7), 1000)
    error = posterior.log_density_estimate(z) - (jax.vmap(gaussian)(z) - LOG_MASS)
    assert np.mean(np.square(error)) ** 0.5 < 0.2


def test_no_key_of_a_user_s_makes_the_draws_that_the_critic_was_fitted_to(posterior, monkeypatch):
    monkeypatch.setattr(fitted, "POOL", 10)
    monkeypatch.setattr(fitted, "fit_critic", lambda *given, held_out, **_: (given[1], held_out))
    # A copy, for it keeps its critic.
    pools = [draw.args[0] for draw in copy.copy(posterior).critic]
    others = [posterior._draw(jax.random.key(seed), 10) for seed in range(4)]
    assert len({np.asarray(z).tobytes() for z in pools + others}) == 6


def test_coordinates_and_their_volume():
    start = Start(jnp.array([1.0, -2.0]), jnp.array([[2.0, 0.0], [0.5, 0.3]]))
    coordinates = Coordinates(start, gaussian)
    w = jax.random.normal(jax.random.key(0), (5, 2))
    np.testing.assert_allclose(coordinates.locate(coordinates.place(w)), w, rtol=1e-4, atol=1e-5)
    jacobians = jax.vmap(jax.jacobian(coordinates.place))(w)
    exact = np.linalg.slogdet(np.asarray(jacobians, np.float64))[1]
    np.testing.assert_allclose(coordinates.log_volume(w), exact, rtol=1e-4, atol=1e-5)
    density = jax.vmap(coordinates.log_density)
    expected = jax.vmap(gaussian)(coordinates.place(w)) + coordinates.log_volume(w)
    np.testing.assert_allclose(density(w), expected, rtol=1e-5)
    gradient = jax.grad(lambda w: jnp.sum(density(w)))(w)
    plain = jax.grad(
        lambda w: jnp.sum(jax.vmap(gaussian)(coordinates.place(w)) + coordinates.log_volume(w))
    )(w)
    np.testing.assert_allclose(gradient, plain, rtol=1e-4, atol=1e-4)


def test_where_the_density_is_not_finite_draws_are_led_back():
    coordinates = Coordinates(Start(jnp.zeros(2), jnp.eye(2)), lambda z: jnp.log(z[0]) - z @ z)
    w = jnp.array([-1.0, 2.0])
    value, slope = jax.value_and_grad(coordinates.log_density)(w)
    assert value == -1e4 - 5.0
    np.testing.assert_array_equal(slope, -2.0 * w)


def standard_normal(u):
    return -0.5 * jnp.sum(jnp.square(u))


def test_draws_astray_give_way_to_others_and_the_rest_stay():
    u = jax.random.normal(jax.random.key(0), (N, 2)).at[::100].set(1e8)
    settled = np.asarray(settle(standard_normal, u, jax.random.key(1)))
    fine = np.arange(N) % 100 > 0
    np.testing.assert_array_equal(settled[fine], np.asarray(u)[fine])
    assert np.all(np.isin(settled[~fine], np.asarray(u)[fine]))
    assert len(np.unique(settled[~fine])) > N // 100  # not one of them alone


def test_transitions_are_as_many_as_let_draws_forget():
    """Draws of a Gaussian do so soon; those of two modes far apart never."""

    def two_modes(u):
        return jnp.logaddexp(standard_normal(u - 20.0), standard_normal(u + 20.0))

    def count(log_density, u):
        return int(number_needed(log_density, u, jnp.float32(0.8), jax.random.key(1), 4, 100))

    u = jax.random.normal(jax.random.key(0), (512, 2))
    assert 0 < count(standard_normal, u) < 100
    sides = jnp.where(jnp.arange(512) % 2 > 0, 20.0, -20.0)
    assert count(two_modes, u + sides[:, None]) == 100


def test_transitions_leave_the_density_as_it_is():
    """Exact draws of N(0, I) stay so; draws that are too narrow grow to it."""
    moves, log_density = Transitions(jnp.float32(0.8), 10, 4), standard_normal
    exact = jax.random.normal(jax.random.key(0), (N, 2))
    after, acceptance = transit(log_density, exact, jax.random.key(1), moves)
    assert 0.5 < acceptance <= 1.0
    assert np.all(np.abs(np.mean(after, axis=0)) < SIGMAS / N**0.5)
    assert np.all(np.abs(np.var(after, axis=0) - 1.0) < SIGMAS * (2.0 / N) ** 0.5)
    grown, _ = transit(log_density, 0.3 * exact, jax.random.key(1), moves)
    assert np.all(np.abs(np.var(grown, axis=0) - 1.0) < SIGMAS * (2.0 / N) ** 0.5 + 0.05)


@pytest.mark.parametrize(
    ("log_joint", "dim", "message"),
    [
        (lambda z: z, 2, "log_joint returned float32 of shape \\(2,\\); allowed is one"),
        (lambda z: jnp.sum(z > 0), 2, "log_joint returned int32"),
        (lambda z: z @ jnp.ones(3), 2, "does not take an array of shape \\(2,\\)"),
        (lambda z: jnp.sum(z) * jnp.nan, 2, "log_joint was not finite at any of 16 points"),
        (lambda z: jnp.sum(jnp.sqrt(-jnp.abs(z))), 2, "was not finite"),
        (lambda z: jnp.sum(jnp.round(z)), 2, "was zero at all starting points"),
        (lambda z: -jnp.square(z[0]) + 1e-4 * jnp.sin(z[1]), 2, "improper, or nearly so"),
        (gaussian, 0, "dim was 0; allowed is a whole number of 1 or more"),
    ],
)
def test_a_bad_density_is_one_sentence(log_joint, dim, message):
    with pytest.raises(ValueError, match=message):
        avb.posterior.fit(log_joint, dim, jax.random.key(0), settings=QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "num_steps was 0; allowed is a whole number of 1 or more"),
        ({"transitions": -1}, "transitions was -1; allowed is a whole number of 0 or more"),
        ({"learning_rate": 2.0}, "learning_rate was 2.0; allowed is between 0 and 1"),
        ({"warm_share": 2}, "warm_share was 2; allowed is between 0 and 1"),
        ({"leapfrog": 1.5}, "leapfrog was 1.5; allowed is a whole number of 1 or more"),
    ],
)
def test_wrong_settings_are_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        avb.posterior.fit(gaussian, 2, jax.random.key(0), settings=QUICK._replace(**change))


def test_a_start_that_is_no_factor_is_one_sentence():
    for scale_tril in ([[1.0, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.5, -1.0]], [[0.0, 0.0], [0, 1.0]]):
        given = Start(jnp.zeros(2), jnp.array(scale_tril))
        with pytest.raises(ValueError, match="scale_tril had .*; allowed is a lower triangular"):
            avb.posterior.fit(gaussian, 2, jax.random.key(0), settings=QUICK, start=given)


@pytest.mark.parametrize("num_steps", [1, 120])
@pytest.mark.parametrize("what", ["loss", "parameters"])
def test_a_divergence_at_the_very_last_step_is_told(num_steps, what, monkeypatch):
    def make_step(*_):
        def step(state, batch):
            bad = jnp.where(state.step == num_steps - 1, jnp.nan, 0.0)
            loss, change = (bad, 0.0) if what == "loss" else (jnp.zeros([]), bad)
            params = jax.tree.map(lambda leaf: leaf + change, state.params)
            metrics = dict.fromkeys(("elbo_estimate", "critic_loss", "log_ratio"), loss)
            return state._replace(step=state.step + 1, params=params), metrics

        return step

    monkeypatch.setattr(module, "make_train_step", make_step)
    config = module.step_config(1, 3, QUICK._replace(num_steps=num_steps))
    model = types.SimpleNamespace(init=lambda key: avb.Params({"a": jnp.zeros([])}, {}, {}))
    x = np.ones((num_steps, 1, 1), np.float32)
    with pytest.raises(FloatingPointError, match=f"not finite before step {num_steps}, .*smaller"):
        module.train_on(model, config, jax.random.key(0), lambda at: x[at], False)


@pytest.mark.parametrize(
    ("log_joint", "start", "message"),
    [
        (lambda z: z, (2, 2), "log_joint returned float32 of shape \\(2,\\); allowed is one"),
        (gaussian, (3, 3), "start had shapes \\(3,\\) and \\(3, 3\\); allowed are \\(2,\\)"),
        (lambda z: jnp.sum(z) * jnp.nan, (2, 2), "not finite at any of 16 draws of start"),
    ],
)
def test_a_start_that_is_given_is_checked(log_joint, start, message):
    given = Start(jnp.zeros(start[0]), jnp.eye(start[1]))
    with pytest.raises(ValueError, match=message):
        avb.posterior.fit(log_joint, 2, jax.random.key(0), settings=QUICK, start=given)


def test_more_of_a_posterior_s_own_errors(posterior):
    with pytest.raises(ValueError, match="num_samples was 0"):
        posterior.sample(jax.random.key(0), 0)
    with pytest.raises(ValueError, match="count was -1"):
        posterior.with_transitions(-1)
