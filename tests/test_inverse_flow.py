"""Inverse autoregressive flows against Jacobians and quadrature, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from avb_jax import inverse_flow
from avb_jax.densities import log_prior
from avb_jax.types import Autoregression, Flow, Gaussian

B = 2
SIGMAS = 4.5  # tolerated standard errors of a Monte Carlo estimate, at a fixed seed


def random_flow(dim: int, width: int = 12, num_steps: int = 3) -> Flow:
    rng = np.random.default_rng(dim)

    def normal(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    factor = np.tril(0.3 * rng.normal(size=(B, dim, dim)), -1) + 0.7 * np.eye(dim)
    base = Gaussian(normal(B, dim, scale=0.3), jnp.asarray(factor, jnp.float32))
    shapes = ((B, width), (dim, width), (width, 2 * dim), (B, 2 * dim))
    scales = (1.0, 1.0, 0.5 / width**0.5, 0.2)
    steps = [
        Autoregression(*(normal(*s, scale=c) for s, c in zip(shapes, scales, strict=True)))
        for _ in range(num_steps)
    ]
    return Flow(base, tuple(steps))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_log_q_is_by_the_jacobian_and_at_any_z(dim):
    flow = random_flow(dim)
    noise = jax.random.normal(jax.random.key(0), (4, B, dim))
    z, log_q = jax.jit(inverse_flow.draw)(flow, noise)

    def one(s, b):
        def z_of(eps):
            return inverse_flow.draw(flow, noise.at[s, b].set(eps))[0][s, b]

        log_det = jnp.linalg.slogdet(jax.jacfwd(z_of)(noise[s, b]))[1]
        return log_prior(noise[s, b]) - log_det

    expected = [[one(s, b) for b in range(B)] for s in range(4)]
    np.testing.assert_allclose(log_q, expected, rtol=1e-4, atol=1e-4)
    again = jax.jit(inverse_flow.log_density)(z, flow)
    np.testing.assert_allclose(again, log_q, rtol=1e-4, atol=1e-3)


def test_each_coordinate_follows_those_before_it_alone():
    into, out = inverse_flow.masks(4, 9)
    reaches = into @ out[:, :4]  # from coordinate d to output d'
    assert np.all((reaches > 0) == (np.arange(4)[:, None] < np.arange(4)[None]))
    np.testing.assert_array_equal(out[:, :4], out[:, 4:])


def test_without_weights_it_is_its_gaussian():
    flow = jax.tree.map(jnp.zeros_like, random_flow(2))._replace(base=random_flow(2).base)
    noise = jax.random.normal(jax.random.key(0), (4, B, 2))
    z, log_q = inverse_flow.draw(flow, noise)
    for b in range(B):
        factor = np.asarray(flow.base.scale_tril[b], np.float64)
        centred = np.asarray(z)[:, b] - np.asarray(flow.base.mean)[b]
        residual = np.linalg.solve(factor, centred.T).T
        expected = scipy.stats.norm.logpdf(residual).sum(axis=1) - np.log(np.diag(factor)).sum()
        np.testing.assert_allclose(log_q[:, b], expected, rtol=1e-4)


def test_kl_and_its_gradient_are_those_of_quadrature():
    """The mean of log q − log p over draws, and its gradient through them, in D = 2."""
    flow = random_flow(2, num_steps=2)
    axis = jnp.linspace(-7.0, 7.0, 281)
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    grid = jnp.broadcast_to(grid, (len(grid), B, 2))
    cell = float(axis[1] - axis[0]) ** 2

    def by_grid(shift):
        log_q = inverse_flow.log_density(grid, moved(shift))
        q = cell * jnp.exp(log_q)
        return jnp.sum(q * (log_q - log_prior(grid))), jnp.sum(q, axis=0)

    def moved(shift):  # one number in every weight
        steps = jax.tree.map(lambda leaf: leaf * (1.0 + shift), flow.steps)
        return Flow(flow.base, steps)

    def by_draw(shift, noise):
        z, log_q = inverse_flow.draw(moved(shift), noise[None])
        return jnp.sum(log_q - log_prior(z))

    (exact, mass), gradient = jax.jit(jax.value_and_grad(by_grid, has_aux=True))(jnp.float32(0.0))
    np.testing.assert_allclose(mass, 1.0, atol=1e-3)
    noise = jax.random.normal(jax.random.key(1), (20_000, B, 2))
    found = jax.jit(jax.vmap(jax.value_and_grad(by_draw), (None, 0)))(jnp.float32(0.0), noise)
    for draws, expected in zip(found, (exact, gradient), strict=True):
        draws = np.asarray(draws, np.float64)
        error = draws.std() / len(draws) ** 0.5
        assert abs(draws.mean() - float(expected)) < SIGMAS * error + 2e-3
