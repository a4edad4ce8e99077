"""Critics start at zero, read x once for all draws, and depend on x only where they should."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax.choices import CRITICS
from avb_jax.networks.critics import (
    InnerProductCritic,
    LearnedContrast,
    ResidualCritic,
    latent_features,
)
from avb_jax.networks.layers import MLP

S, B, D = 6, 3, 2
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(B, 4, 3, 1)).astype(np.float32)
Z = RNG.normal(size=(S, B, D)).astype(np.float32)
GAIN = RNG.normal(size=(S, B), scale=5.0).astype(np.float32)


def build(name: str, width: int = 16, trunk_width: int = 16, depth: int = 2) -> nn.Module:
    sizes = {"width": width, "depth": depth, "trunk_width": trunk_width, "trunk_depth": depth}
    if name == "inner-product":
        return InnerProductCritic(**sizes)
    return ResidualCritic(**sizes, conditional=name != "unconditional")


def told(name: str) -> tuple:
    """What that critic is given beside x and z."""
    return (GAIN,) if name == "informed" else ()


@pytest.mark.parametrize("name", CRITICS)
def test_a_fresh_critic_is_exactly_zero(name):
    critic = build(name, depth=1)

    @jax.jit
    def fresh(key):
        s, params = critic.init_with_output(key, X, Z, *told(name))
        total = lambda p: jnp.sum(jnp.sin(Z[..., 0]) * critic.apply(p, X, Z, *told(name)))  # noqa: E731
        return s, jax.grad(total)(params)

    s, gradient = fresh(jax.random.key(0))
    assert s.shape == (S, B) and s.dtype == np.float32
    np.testing.assert_array_equal(s, 0.0)
    # Zero by its output layers alone: the gradient moves it from there.
    assert max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(gradient)) > 1e-3


@pytest.mark.parametrize("name", CRITICS)
def test_only_a_conditional_critic_depends_on_x(name, random_params):
    critic = build(name)
    params = random_params(critic, X, Z, *told(name))
    apply = jax.jit(critic.apply)
    before = np.asarray(apply(params, X, Z, *told(name)))
    changed = X.copy()
    changed[1] = 1.0 - changed[1]
    after = np.asarray(apply(params, changed, Z, *told(name)))
    np.testing.assert_allclose(after[:, [0, 2]], before[:, [0, 2]], rtol=1e-5, atol=1e-6)
    if name == "unconditional":
        np.testing.assert_array_equal(after, before)
    else:
        assert np.min(np.abs(after[:, 1] - before[:, 1])) > 1e-4


@pytest.mark.parametrize("name", CRITICS)
def test_each_value_depends_on_its_own_draw_alone(name, random_params):
    critic = build(name)
    params = random_params(critic, X, Z, *told(name))
    apply = jax.jit(critic.apply)
    before = np.asarray(apply(params, X, Z, *told(name)))
    moved = Z.copy()
    moved[2, 1] += 0.5
    difference = np.abs(np.asarray(apply(params, X, moved, *told(name))) - before)
    assert difference[2, 1] > 1e-3
    difference[2, 1] = 0.0
    assert np.max(difference) < 1e-5


@pytest.mark.parametrize("name", CRITICS)
def test_gradient_reaches_every_parameter_in_the_dtype_of_x(name, random_params):
    critic = build(name)
    with jax.enable_x64(True):
        x, z = X.astype(np.float64), Z.astype(np.float64)
        params = jax.tree.map(
            lambda p: p.astype(np.float64), random_params(critic, X, Z, *told(name))
        )
        total = lambda p: jnp.sum(jnp.sin(critic.apply(p, x, z, *map(np.float64, told(name)))))  # noqa: E731
        value, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert value.dtype == np.float64
    for leaf in jax.tree.leaves(gradient):
        assert leaf.dtype == np.float64 and np.all(np.isfinite(leaf))
        assert np.max(np.abs(leaf)) > 1e-6


def test_an_informed_critic_depends_on_the_gain_of_each_draw(random_params):
    """Through arcsinh: a gain of a thousand nats is a number like others."""
    critic = build("informed")
    params = random_params(critic, X, Z, GAIN)
    apply = jax.jit(critic.apply)
    raised = GAIN.copy()
    raised[1, 2] -= 1000.0
    difference = np.abs(np.asarray(apply(params, X, Z, raised) - apply(params, X, Z, GAIN)))
    assert 1e-2 < difference[1, 2] < 100.0
    difference[1, 2] = 0.0
    assert np.max(difference) == 0.0


@pytest.mark.parametrize("name", ["residual", "inner-product"])
def test_the_trunk_runs_once_however_many_draws(name, random_params):
    """By XLA's count: 8 draws more cost 8 times what lies beyond the trunk, at most."""
    x = np.zeros((4, 8, 8, 4), np.float32)

    def flops(module: nn.Module, *args) -> float:
        lowered = jax.jit(module.apply).lower(random_params(module, *args), *args)
        return lowered.cost_analysis()["flops"]

    critic = build(name, width=8, trunk_width=128)
    one, nine = (flops(critic, x, np.zeros((num, 4, D), np.float32)) for num in (1, 9))
    trunk = flops(MLP(128, 2), x.reshape(4, -1))
    assert trunk > 0.5 * one
    assert nine - one < 8.0 * (one - 0.95 * trunk)


def interaction(critic: nn.Module, params) -> np.ndarray:
    """Singular values of s over 8 x by 8 z, less what depends on x alone or z alone."""
    x = RNG.uniform(size=(8, 4, 3, 1)).astype(np.float32)
    z = np.repeat(RNG.normal(size=(8, 1, D)), 8, axis=1).astype(np.float32)
    s = np.asarray(jax.jit(critic.apply)(params, x, z), np.float64)
    s = s - s.mean(0) - s.mean(1, keepdims=True) + s.mean()
    return np.linalg.svd(s, compute_uv=False)


def test_inner_product_interacts_through_its_width_alone(random_params):
    """⟨θ(x), s(z)⟩ + T_x + T_z has interactions of rank `width`; here 2."""
    critic = build("inner-product", width=2)
    values = interaction(critic, random_params(critic, X, Z))
    assert values[1] > 1e-3 and np.max(values[2:]) < 1e-5
    residual = build("residual", width=2)
    assert interaction(residual, random_params(residual, X, Z))[2] > 1e-4


def test_latent_features():
    features = np.asarray(latent_features(jnp.asarray(Z)))
    assert features.shape == (S, B, 3 * D)
    expected = np.concatenate([Z, Z**2 - 1.0, np.tanh(Z)], axis=-1)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_a_fresh_learned_contrast_is_the_prior():
    contrast = LearnedContrast(D, 16, 1)
    reference, _ = jax.jit(contrast.init_with_output)(jax.random.key(0), X)
    np.testing.assert_array_equal(reference.mean, np.zeros((B, D)))
    np.testing.assert_array_equal(reference.scale_tril, np.stack([np.eye(D)] * B))


def test_learned_contrast_is_a_full_gaussian_of_each_x(random_params):
    contrast = LearnedContrast(D, 16, 1)
    reference = jax.jit(contrast.apply)(random_params(contrast, X), X)
    scale_tril = np.asarray(reference.scale_tril)
    assert np.all(np.triu(scale_tril, 1) == 0.0) and np.all(scale_tril[:, 1, 0] != 0.0)
    assert np.all(np.diagonal(scale_tril, 0, 1, 2) > 0.0)
    for leaf in reference:
        assert np.max(np.abs(leaf[0] - leaf[1])) > 1e-3
