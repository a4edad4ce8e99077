"""Schedules, clipping and averaging, each against a loop in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avb_jax.config import Config
from avb_jax.optimizers import (
    average_parameters,
    averaged_parameters,
    build_optimizers,
    learning_rate_schedule,
)

CONFIG = Config(num_steps=50, learning_rate=0.2, critic_learning_rate=0.1, schedule="constant")


def expected_rate(step: int, peak: float, config: Config) -> float:
    if step < config.warmup_steps:
        return peak * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return peak
    done = (step - config.warmup_steps) / (config.num_steps - config.warmup_steps)
    return peak * 0.5 * (1.0 + np.cos(np.pi * min(done, 1.0)))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup_steps", [0, 10])
def test_schedule(schedule, warmup_steps):
    config = dataclasses.replace(CONFIG, schedule=schedule, warmup_steps=warmup_steps)
    rate = learning_rate_schedule(config, schedule, 0.2)
    actual = [float(rate(step)) for step in range(61)]
    expected = [expected_rate(step, 0.2, config) for step in range(61)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-8)
    assert max(actual) == pytest.approx(0.2)
    assert actual[50] == pytest.approx(0.0 if schedule == "cosine" else 0.2, abs=1e-8)


def run(optimizer: optax.GradientTransformation, gradients: np.ndarray, start) -> tuple:
    """Parameters after each update, [T, ...], and the last state."""
    params, state, path = jnp.asarray(start), optimizer.init(jnp.asarray(start)), []

    @jax.jit
    def update(gradient, state, params):
        with jax.numpy_dtype_promotion("standard"):  # optax itself mixes dtypes
            updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = update(jnp.asarray(gradient), state, params)
        path.append(np.asarray(params))
    return np.stack(path), state


def rates_of(optimizer: optax.GradientTransformation, num_updates: int) -> np.ndarray:
    """Learning rates: under a constant gradient they are Adam's updates themselves."""
    path, _ = run(optimizer, np.ones((num_updates, 1), np.float32), np.zeros(1, np.float32))
    return -np.diff(np.ravel(path), prepend=0.0)


def adam(gradients: np.ndarray, start: np.ndarray, rates, clip_norm: float) -> np.ndarray:
    """Kingma and Ba 2015, algorithm 1, over gradients clipped by norm; 0 does not clip."""
    params, m, v, path = np.array(start, np.float64), 0.0, 0.0, []
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        norm = np.linalg.norm(gradient)
        g = gradient * min(1.0, clip_norm / norm) if clip_norm else gradient
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        params = params - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        path.append(params)
    return np.stack(path)


START = np.array([1.0, -2.0, 3.0], np.float32)
GRADIENTS = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
GRADIENTS[::4] *= 20.0  # some are clipped, some are not


@pytest.mark.parametrize("clip_norm", [0.0, 2.0])
def test_both_players_take_adam_steps_on_clipped_gradients(clip_norm):
    config = dataclasses.replace(CONFIG, clip_norm=clip_norm, schedule="cosine", warmup_steps=5)
    optimizers = build_optimizers(config)
    for optimizer, peak in ((optimizers.vae, 0.2), (optimizers.critic, 0.1)):
        rates = [expected_rate(step, peak, config) for step in range(len(GRADIENTS))]
        path, _ = run(optimizer, GRADIENTS, START)
        np.testing.assert_allclose(path, adam(GRADIENTS, START, rates, clip_norm), rtol=2e-4)


def test_clipping_is_by_the_norm_of_all_parameters_together():
    config = dataclasses.replace(CONFIG, clip_norm=1.0)
    optimizer = build_optimizers(config).vae
    state = optimizer.init({"a": jnp.zeros(1), "b": jnp.zeros(1)})
    with jax.numpy_dtype_promotion("standard"):  # optax itself mixes dtypes
        _, state = jax.jit(optimizer.update)(
            {"a": np.array([3.0], "f"), "b": np.array([4.0], "f")}, state
        )
    first_moment = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(first_moment["a"], 0.1 * 0.6, rtol=1e-6)
    np.testing.assert_allclose(first_moment["b"], 0.1 * 0.8, rtol=1e-6)


def test_kernels_of_encoder_and_decoder_decay():
    """Loshchilov and Hutter 2019, algorithm 2: by the rate times 0.1, beside Adam's own steps."""
    config = dataclasses.replace(CONFIG, weight_decay=0.1, warmup_steps=0)
    optimizers, zeros = build_optimizers(config), np.zeros((5, 1, 3), np.float32)
    path, _ = run(optimizers.vae, zeros, START[None])
    shrunk = [START[None] * (1.0 - 0.2 * 0.1) ** (t + 1) for t in range(5)]
    np.testing.assert_allclose(path, shrunk, rtol=1e-5)
    for optimizer, start in ((optimizers.vae, START), (optimizers.critic, START[None])):
        path, _ = run(optimizer, np.zeros((5, *start.shape), np.float32), start)
        np.testing.assert_array_equal(path[-1], start)


@pytest.mark.parametrize("critic_steps", [1, 3])
def test_the_critics_schedule_counts_steps_of_training(critic_steps):
    config = dataclasses.replace(
        CONFIG, num_steps=12, schedule="cosine", warmup_steps=4, critic_steps=critic_steps
    )
    optimizers, updates = build_optimizers(config), range(12 * critic_steps)
    expected = [expected_rate(update // critic_steps, 0.1, config) for update in updates]
    actual = rates_of(optimizers.critic, len(updates))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-6)
    expected = [expected_rate(step, 0.2, config) for step in range(12)]
    np.testing.assert_allclose(rates_of(optimizers.vae, 12), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_critic_may_have_a_schedule_of_its_own(schedule):
    config = dataclasses.replace(
        CONFIG, num_steps=12, schedule="cosine", critic_schedule=schedule, warmup_steps=4
    )
    critic, vae = build_optimizers(config).critic, build_optimizers(config).vae
    for optimizer, peak, name in ((critic, 0.1, schedule), (vae, 0.2, "cosine")):
        alone = dataclasses.replace(config, schedule=name)
        expected = [expected_rate(step, peak, alone) for step in range(12)]
        np.testing.assert_allclose(rates_of(optimizer, 12), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_average_parameters_against_a_loop(decay):
    """With decay 0.5 the bound (1 + t)/(10 + t) is passed at t = 8; with 0.999 never."""
    optimizer = optax.chain(optax.sgd(0.1), average_parameters(decay))
    path, state = run(optimizer, GRADIENTS, START)
    plain, _ = run(optax.sgd(0.1), GRADIENTS, START)
    np.testing.assert_array_equal(path, plain)  # updates pass unchanged
    average = START.astype(np.float64)
    for t, params in enumerate(path, start=1):
        rate = min(decay, (1.0 + t) / (10.0 + t))
        average = rate * average + (1.0 - rate) * params
    found = averaged_parameters(state, jnp.asarray(path[-1]))
    np.testing.assert_allclose(found, average, rtol=1e-5)
    assert np.max(np.abs(found - path[-1])) > 0.1


def test_average_keeps_structure_and_dtypes():
    params = {"half": jnp.ones(2, jnp.bfloat16), "single": {"w": jnp.ones((2, 3))}}
    optimizer = average_parameters(0.9)
    updates, state = optimizer.update(params, optimizer.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, params)
    types = jax.tree.map(lambda leaf: leaf.dtype, averaged_parameters(state, None))
    assert types == {"half": jnp.bfloat16, "single": {"w": jnp.float32}}
    # At t = 1 the rate is 1 − 2/11: from 1 towards 2.
    np.testing.assert_allclose(state.average["single"]["w"], 1.0 + 9.0 / 11.0, rtol=1e-6)


def test_averaged_parameters_where_none_are_kept():
    start = {"w": jnp.arange(3.0)}
    with_average = build_optimizers(dataclasses.replace(CONFIG, ema_decay=0.99))
    without = build_optimizers(CONFIG)
    other = {"w": jnp.full(3, 7.0)}
    assert averaged_parameters(without.vae.init(start), other) is other
    found = averaged_parameters(with_average.vae.init(start), other)
    np.testing.assert_array_equal(found["w"], start["w"])
    # The critic is never averaged.
    assert averaged_parameters(with_average.critic.init(start), other) is other
