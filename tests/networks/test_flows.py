"""The flows' densities are those of their maps, and sum to one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from avb_jax.networks.flows import ContrastFlow, CouplingFlow, MixtureFlow, squash

S, B, D, F = 5, 2, 3, 4
FLOW = ContrastFlow(CouplingFlow(3, 8), MixtureFlow(3), trunk_width=8, trunk_depth=1)
CONTEXT = np.random.default_rng(0).normal(size=(B, F))
Z = np.random.default_rng(1).normal(size=(S, B, D))


def _in_float64(flow, params, z, context=CONTEXT):
    """(u, log r or log |∂u/∂z|, its Jacobian at each z given its own context)."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: p.astype(np.float64), params)
        one = lambda z, c: flow.apply(params, c[None], z[None, None])[0][0, 0]  # noqa: E731
        jacobian = jax.jit(jax.vmap(jax.vmap(jax.jacfwd(one)), in_axes=(0, None)))(z, context)
        return *jax.jit(flow.apply)(params, context, z), jacobian


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_log_density_is_that_of_the_map(dim, random_params):
    """log N(u) + log |det ∂u/∂z|, for each z and its own context; without couplings in D = 1."""
    z = np.random.default_rng(2).normal(size=(S, B, dim))
    params = random_params(FLOW, CONTEXT.astype(np.float32), z.astype(np.float32), gain=0.5)
    u, log_density, jacobian = _in_float64(FLOW, params, z)
    expected = scipy.stats.norm.logpdf(u).sum(-1) + np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(log_density, expected, rtol=1e-6, atol=1e-6)


def test_mixtures_move_each_coordinate_alone(random_params):
    """And in order: their Jacobian is diagonal and positive, and log r is log N(u) and its log."""
    flow = MixtureFlow(components=3)
    params = random_params(flow, CONTEXT.astype(np.float32), Z.astype(np.float32))
    u, log_density, jacobian = _in_float64(flow, params, Z)
    diagonal = np.diagonal(jacobian, axis1=-2, axis2=-1)
    np.testing.assert_array_equal(jacobian, diagonal[..., None] * np.eye(D))
    assert np.all(diagonal > 0.0)
    expected = scipy.stats.norm.logpdf(u).sum(-1) + np.log(diagonal).sum(-1)
    np.testing.assert_allclose(log_density, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_density_sums_to_one(dim, random_params):
    """By the midpoint rule; the context is left out."""
    flow = MixtureFlow(components=3)
    params = random_params(flow, None, np.zeros((1, 1, dim), np.float32))
    centres = np.linspace(-30.0, 30.0, 601, dtype=np.float32)
    grid = np.stack(np.meshgrid(*[centres] * dim), -1).reshape(-1, 1, dim)
    log_density = np.asarray(jax.jit(flow.apply)(params, None, grid)[1], np.float64)
    assert np.exp(log_density).sum() * 0.1**dim == pytest.approx(1.0, abs=1e-3)


def test_each_density_depends_on_its_own_context_alone(random_params):
    """And images serve as a context as their pixels do, centred."""
    z, context = Z.astype(np.float32), CONTEXT.astype(np.float32)
    params = random_params(FLOW, context, z)
    before = FLOW.apply(params, context, z)[1]
    after = FLOW.apply(params, context * np.float32([[1.0], [2.0]]), z)[1]
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert np.all(before[:, 1] != after[:, 1])
    images = (0.5 * (context + 1.0)).reshape(B, 2, 2, 1)
    np.testing.assert_allclose(FLOW.apply(params, images, z)[1], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 5])
def test_couplings_change_volume_as_they_say(dim, random_params):
    """log |∂u/∂z| is that of the Jacobian, for each z and its own context."""
    flow, z = CouplingFlow(3, 8), np.random.default_rng(2).normal(size=(S, B, dim))
    params = random_params(flow, CONTEXT.astype(np.float32), z.astype(np.float32))
    u, log_scale, jacobian = _in_float64(flow, params, z)
    alone, _, _ = _in_float64(flow, params, z[3:4, 1:2], CONTEXT[1:2])
    np.testing.assert_allclose(u[3, 1], alone[0, 0], rtol=1e-6)
    np.testing.assert_allclose(log_scale, np.linalg.slogdet(jacobian)[1], rtol=1e-6, atol=1e-6)


def test_fresh_couplings_only_exchange_halves():
    z = jnp.asarray(Z[..., :2], jnp.float32)
    u, log_scale = CouplingFlow(count=2).init_with_output(jax.random.key(0), None, z)[0]
    np.testing.assert_allclose(log_scale, 0.0, atol=0.2)
    np.testing.assert_allclose(u, z, atol=0.3)


@pytest.mark.parametrize("x, value", [(0.75, 0.6), (-0.75, -0.6), (1e30, 0.0), (-1e30, 0.0)])
def test_what_is_squashed_stays_finite(x, value):
    """Also where x² does not: nothing is left of x there, and of its slope."""
    found, slope = jax.value_and_grad(squash)(x)
    assert found == pytest.approx(value)
    assert slope == pytest.approx(0.512 if abs(x) < 1.0 else 0.0)  # (1 + x²)^−3/2


def test_far_tails_stay_finite_and_ordered():
    flow = MixtureFlow(components=3)
    z = jnp.linspace(-40.0, 40.0, 81)[:, None, None]
    params = flow.init(jax.random.key(0), None, z)
    u, log_density = flow.apply(params, None, z)
    assert np.all(np.isfinite(u)) and np.all(np.isfinite(log_density))
    assert np.all(np.diff(np.asarray(u)[:, 0, 0]) >= 0.0)
    assert np.all(np.diff(np.asarray(u)[31:50, 0, 0]) > 0.0)
