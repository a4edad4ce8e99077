"""Quadrature against the closed forms of linear-Gaussian models."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.ndimage import map_coordinates
from jax.scipy.stats.multivariate_normal import logpdf

from avb_jax.densities import bernoulli_log_prob
from avb_jax.evaluation import quadrature_log_likelihood
from avb_jax.evaluation.quadrature import _share_out, _smooth
from avb_jax.types import Params


class LinearGaussian(NamedTuple):
    """z ~ N(0, I), x|z ~ N(W z + b, s² I), the outputs being the location and log s."""

    latent_dim: int

    def decode(self, decoder, z):
        assert z.shape[1] == 1  # a grid point is decoded once, not once for each x
        location = jnp.einsum("ed,sbd->sbe", decoder["weight"], z) + decoder["bias"][None, None]
        return location, decoder["log_scale"]

    def log_likelihood(self, outputs, x):
        location, log_scale = outputs
        residual = (x[None] - location) * jnp.exp(-log_scale)
        return jnp.sum(-0.5 * residual**2 - 0.5 * math.log(2 * math.pi) - log_scale, axis=-1)


def make_params(key, dim, event=3, scale=0.5):
    key_weight, key_bias = jax.random.split(key)
    decoder = {
        "weight": jax.random.normal(key_weight, (event, dim)),
        "bias": jax.random.normal(key_bias, (event,)),
        "log_scale": jnp.log(jnp.float32(scale)),
    }
    return Params(encoder={}, decoder=decoder, critic={})


def exact_log_likelihood(decoder, x):
    weight = decoder["weight"]
    noise = jnp.exp(2 * decoder["log_scale"]) * jnp.eye(weight.shape[0])
    covariance = weight @ weight.T + noise
    return jax.vmap(logpdf, (0, None, None))(x, decoder["bias"], covariance)


@pytest.mark.parametrize(("dim", "points"), [(1, 512), (2, 200)])
def test_value_and_gradient_are_the_closed_forms(key, dim, points):
    params = make_params(key, dim)
    x = 1.5 * jax.random.normal(jax.random.key(1), (5, 3))
    cotangent = jnp.arange(1.0, 6.0)

    def estimate(decoder):
        found = quadrature_log_likelihood(
            LinearGaussian(dim), params._replace(decoder=decoder), x, points_per_dim=points
        )
        return cotangent @ found, found

    def exact(decoder):
        found = exact_log_likelihood(decoder, x)
        return cotangent @ found, found

    gradient, value = jax.jit(jax.grad(estimate, has_aux=True))(params.decoder)
    gradient_exact, value_exact = jax.jit(jax.grad(exact, has_aux=True))(params.decoder)
    np.testing.assert_allclose(value, value_exact, rtol=2e-5, atol=2e-5)
    for name in gradient_exact:
        size = float(jnp.abs(gradient_exact[name]).max())
        np.testing.assert_allclose(gradient[name], gradient_exact[name], atol=2e-4 * size)


class Pixels(NamedTuple):
    """Three pixels that are 1 with probability σ(w z), and otherwise 0."""

    latent_dim: int = 1

    def decode(self, decoder, z):
        return z * decoder[None, None]

    def log_likelihood(self, logits, x):
        return bernoulli_log_prob(logits, x.astype(logits.dtype))


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.uint8, jnp.int32, jnp.bfloat16])
def test_pixels_of_any_dtype_are_as_those_of_float32(dtype):
    x, params = jnp.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]), Params({}, jnp.arange(1.0, 4.0), {})
    found, expected = (
        quadrature_log_likelihood(Pixels(), params, x.astype(d)) for d in (dtype, jnp.float32)
    )
    np.testing.assert_array_equal(found, expected)


def test_the_grid_of_kernels_smooths_as_stated():
    """A kernel of τ = h has the peak of variance τ² + h²/3, over its positions between points.

    Within 1%, for a tent is not quite Gaussian; h²/6 would be 14% off.
    """
    offset = (jnp.arange(8.0) + 0.5) / 8.0
    positions = 12.0 + jnp.stack(jnp.meshgrid(offset, offset), axis=-1).reshape(-1, 2)

    def peak(at):
        density = _smooth(_share_out(jnp.zeros((24, 24)), at[None]), jnp.eye(2))
        return map_coordinates(density, list(at[:, None]), order=1)[0]

    found = jnp.mean(jax.jit(jax.vmap(peak))(positions))
    np.testing.assert_allclose(found, 1.0 / (2.0 * math.pi * (1.0 + 1.0 / 3.0)), rtol=0.01)


def test_blocks_do_not_matter(key):
    model, params = LinearGaussian(2), make_params(key, 2)
    x = jax.random.normal(jax.random.key(1), (2, 3))
    found, whole = (
        quadrature_log_likelihood(model, params, x, points_per_dim=20, block_size=size)
        for size in (7, 1000)
    )
    np.testing.assert_allclose(found, whole, rtol=2e-6)


def test_error_of_a_coarse_grid_is_as_stated():
    """2 exp(-2π²σ²/h²) where the posterior's σ is half the spacing h: 1.4%, reached for some x."""
    spacing = 0.1
    posterior_scale = 0.5 * spacing
    decoder = {
        "weight": jnp.ones((1, 1)),
        "bias": jnp.zeros((1,)),
        "log_scale": jnp.float32(-0.5 * math.log(posterior_scale**-2 - 1.0)),
    }
    x = jnp.linspace(0.0, 0.2, 101)[:, None]
    found = quadrature_log_likelihood(
        LinearGaussian(1), Params({}, decoder, {}), x, limit=6.0, points_per_dim=120
    )
    error = np.expm1(np.asarray(found - exact_log_likelihood(decoder, x)))
    stated = 2 * math.exp(-2 * math.pi**2 * posterior_scale**2 / spacing**2)
    np.testing.assert_allclose([error.max(), -error.min()], stated, rtol=0.02)


def test_uninformative_likelihood_leaves_the_mass_of_the_prior_in_the_box():
    decoder = {"weight": jnp.zeros((1, 1)), "bias": jnp.zeros((1,)), "log_scale": jnp.float32(0)}
    x = jnp.zeros((1, 1))
    found = quadrature_log_likelihood(LinearGaussian(1), Params({}, decoder, {}), x, limit=2.0)
    mass = math.erf(2.0 / math.sqrt(2.0))
    np.testing.assert_allclose(found, -0.5 * math.log(2 * math.pi) + math.log(mass), rtol=1e-5)


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [
        (3, {}, "latent_dim was 3"),
        (1, {"limit": 0.0}, "limit was 0.0"),
        (1, {"limit": math.inf}, "limit was inf"),
        (1, {"points_per_dim": 0}, "points_per_dim was 0"),
        (1, {"block_size": 0}, "block_size was 0"),
    ],
)
def test_bad_arguments_are_named(key, dim, options, message):
    with pytest.raises(ValueError, match=message):
        quadrature_log_likelihood(
            LinearGaussian(dim), make_params(key, dim), jnp.zeros((1, 3)), **options
        )
