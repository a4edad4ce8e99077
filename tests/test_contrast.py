"""The contrast's coordinates, densities and moments, by closed form and by finite difference."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from avb_jax import contrast
from avb_jax.choices import COVARIANCES
from avb_jax.contrast import Contrast
from avb_jax.types import Encoding, Gaussian, Kernel, Moments

SIGMAS = 4.0  # tolerated standard errors of a Monte Carlo estimate, at a fixed seed


def random_moments(seed: int, num_points: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Means [B, D] and correlated covariances [B, D, D]."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(num_points, dim, dim))
    covariance = factor @ factor.transpose(0, 2, 1) + 0.1 * np.eye(dim)
    return rng.normal(size=(num_points, dim)), covariance


sample_reference = jax.jit(contrast.sample_reference, static_argnums=(2, 3))


@partial(jax.jit, static_argnums=1)
def reference_of_draws(z: jax.Array, covariance: str) -> Gaussian:
    return contrast.from_moments(contrast.sample_moments(z), covariance)


@partial(jax.jit, static_argnums=1)
def log_scale_of_draws(z: jax.Array, covariance: str) -> jax.Array:
    return contrast.log_scale(reference_of_draws(z, covariance), z)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_log_density_whiten_and_log_scale_are_closed_forms(covariance):
    mean, matrix = random_moments(0, 4, 3)
    if covariance == "diagonal":
        expected = np.stack([np.diag(np.diagonal(c)) for c in matrix])
    else:
        expected = matrix
    z = np.random.default_rng(1).normal(size=(5, 4, 3))
    with jax.enable_x64(True):
        moments = Moments(jnp.asarray(mean), jnp.asarray(matrix))
        reference = jax.jit(contrast.from_moments, static_argnums=1)(moments, covariance)
        log_density = jax.jit(contrast.log_density)(jnp.asarray(z), reference)
        log_scale = jax.jit(contrast.log_scale)(reference, jnp.asarray(z))
        z_tilde = jax.jit(contrast.whiten)(jnp.asarray(z), reference)
    z_tilde = np.asarray(z_tilde)
    for b in range(4):
        q = scipy.stats.multivariate_normal(mean[b], expected[b])
        np.testing.assert_allclose(log_density[:, b], q.logpdf(z[:, b]), rtol=1e-10)
        np.testing.assert_allclose(log_scale[b], 0.5 * np.linalg.slogdet(expected[b])[1])
        factor = np.linalg.cholesky(expected[b])
        np.testing.assert_allclose(factor @ z_tilde[:, b].T, (z[:, b] - mean[b]).T, atol=1e-12)


def test_without_a_reference_it_is_the_prior():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 3)), jnp.float32)
    np.testing.assert_array_equal(contrast.whiten(z, None), z)
    np.testing.assert_array_equal(contrast.log_scale(None, z), np.zeros(4))
    expected = scipy.stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(contrast.log_density(z, None), expected, rtol=1e-5)


def test_sample_moments_are_numpys():
    z = np.random.default_rng(2).normal(size=(7, 3, 4))
    with jax.enable_x64(True):
        moments = jax.jit(contrast.sample_moments)(jnp.asarray(z))
    np.testing.assert_allclose(moments.mean, z.mean(0), rtol=1e-12)
    for b in range(3):
        expected = np.cov(z[:, b].T, bias=True)
        np.testing.assert_allclose(moments.covariance[b], expected, rtol=1e-10)


def semi_implicit(z: np.ndarray, scale_tril: np.ndarray, dtype=jnp.float64) -> Encoding:
    z = jnp.asarray(z, dtype)
    return Encoding(z, kernel=Kernel(z, jnp.asarray(scale_tril, dtype)[None]))


def test_moments_in_a_kernels_coordinates_are_the_draws_own():
    """Their factor, the Cholesky factor of the covariance, and its gradient."""
    z = np.random.default_rng(2).normal(size=(7, 3, 4))
    scale_tril = np.linalg.cholesky(random_moments(3, 3, 4)[1])
    weights = np.random.default_rng(4).normal(size=(3, 4, 4))
    with jax.enable_x64(True):
        plain = jax.jit(contrast.sample_moments)(jnp.asarray(z))
        known = jax.jit(contrast.draws_moments)(semi_implicit(z, scale_tril))

        def of_kernel(z):
            return jnp.sum(
                weights * contrast.draws_moments(semi_implicit(z, scale_tril)).scale_tril
            )

        def of_covariance(z):
            return jnp.sum(weights * reference_of_draws(z, "full").scale_tril)

        ours, expected = (jax.grad(f)(jnp.asarray(z)) for f in (of_kernel, of_covariance))
    np.testing.assert_allclose(known.mean, plain.mean, rtol=1e-12)
    np.testing.assert_allclose(known.covariance, plain.covariance, rtol=1e-10)
    np.testing.assert_allclose(known.scale_tril, np.linalg.cholesky(plain.covariance), rtol=1e-9)
    np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-12)


def test_draws_that_all_but_lie_on_a_line_have_a_factor_in_float32():
    """Spreads of 1 and 1e-5, on a diagonal of the plane: their covariance has lost the second."""
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5
    z = np.random.default_rng(5).normal(size=(24, 1, 2)) * [1.0, 1e-5] @ turn.T
    lower = np.linalg.cholesky(turn @ np.diag([1.0, 1e-10]) @ turn.T)[None]
    known = jax.jit(contrast.draws_moments)(semi_implicit(z, lower, jnp.float32))
    expected = np.linalg.cholesky(np.cov(z[:, 0].T, bias=True))
    np.testing.assert_allclose(known.scale_tril[0], expected, rtol=0.05)


def test_variances_of_fewer_draws_than_dimensions_and_their_gradient():
    """Diagonal moments need no factor, and three draws in five dimensions have none."""
    z, eye = np.random.default_rng(6).normal(size=(3, 2, 5)), np.broadcast_to(np.eye(5), (2, 5, 5))

    @jax.jit
    def log_scale(z):
        encoding = Encoding(z, kernel=Kernel(z, jnp.asarray(eye)[None]))
        return contrast.log_scale(Contrast("moments", "diagonal").reference({}, z, encoding), z)

    with jax.enable_x64(True):
        value = log_scale(jnp.asarray(z))
        gradient = jax.grad(lambda z: jnp.sum(log_scale(z)))(jnp.asarray(z))
    np.testing.assert_allclose(value, np.log(z.std(axis=0)).sum(-1), rtol=1e-10)
    expected = (z - z.mean(axis=0)) / (len(z) * z.var(axis=0))
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("num_samples, dim", [(16, 2), (24, 8)])
def test_log_density_of_estimated_moments_is_right_on_average(covariance, num_samples, dim):
    """At fresh draws of N(0, I), whose E log q is −½ D (log 2π + 1): within 4 standard errors."""
    keys, count = jax.random.split(jax.random.key(3)), 20_000
    drawn = jax.random.normal(keys[0], (num_samples, count, dim))
    z, encoding = jax.random.normal(keys[1], (1, count, dim)), Encoding(drawn)
    r = Contrast("moments", covariance)
    reference = r.reference({}, jnp.zeros((count, 1)), encoding)
    values = np.asarray(r.log_density(z, reference, encoding)[0], np.float64)
    error = values.mean() + 0.5 * dim * (np.log(2.0 * np.pi) + 1.0)
    assert abs(error) < 4.0 * values.std() / count**0.5
    # With moments as they are it would be far off.
    plain = np.asarray(contrast.log_density(z, reference)[0], np.float64)
    assert abs(plain.mean() - values.mean()) > 4.0 * values.std() / count**0.5


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("num_samples, dim", [(5, 3), (16, 8), (24, 2), (4, 1)])
def test_log_scale_bias_against_monte_carlo(num_samples, dim, covariance):
    """Within 4 standard errors of 4,000 sample covariances of a correlated Gaussian."""
    matrix = random_moments(3, 1, dim)[1][0]
    noise = np.random.default_rng(4).normal(size=(num_samples, 4000, dim))
    z = noise @ np.linalg.cholesky(matrix).T
    with jax.enable_x64(True):
        log_scale = np.asarray(log_scale_of_draws(jnp.asarray(z), covariance))
    if covariance == "diagonal":
        matrix = np.diag(np.diagonal(matrix))
    excess = log_scale - 0.5 * np.linalg.slogdet(matrix)[1]
    stderr = excess.std() / len(excess) ** 0.5
    bias = contrast.log_scale_bias(num_samples, dim, covariance)
    assert bias < 0.0
    assert abs(excess.mean() - bias) < SIGMAS * stderr


def test_log_scale_bias_vanishes_with_many_draws():
    assert abs(contrast.log_scale_bias(1_000_000, 8, "full")) < 1e-4


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_reference_draws_have_their_own_moments_exactly(key, covariance):
    z = jnp.zeros((16, 6, 5))
    draws = sample_reference(key, z, True, covariance)
    moments = jax.jit(contrast.sample_moments)(draws)
    np.testing.assert_allclose(moments.mean, 0.0, atol=1e-6)
    off_diagonal = np.asarray(moments.covariance) - np.eye(5)
    if covariance == "diagonal":
        variances = np.diagonal(moments.covariance, axis1=1, axis2=2)
        np.testing.assert_allclose(variances, 1.0, atol=2e-6)
        assert np.max(np.abs(off_diagonal)) > 0.1
    else:
        np.testing.assert_allclose(off_diagonal, 0.0, atol=5e-6)


def test_reference_draws_without_own_moments_are_standard_normal(key):
    draws = np.asarray(sample_reference(key, jnp.zeros((500, 4, 5)), False, "full"))
    assert draws.shape == (500, 4, 5)
    assert scipy.stats.kstest(draws.ravel(), "norm").pvalue > 0.01
    assert np.max(np.abs(draws.mean(0))) > 1e-3


def test_whitened_gaussian_draws_are_the_reference_draws(key):
    """At any S, even one at which the moments are poor: m and L drop out exactly."""
    mean, matrix = random_moments(4, 3, 4)
    with jax.enable_x64(True):
        noise = np.asarray(jax.random.normal(key, (6, 3, 4), jnp.float64))
        z = jnp.asarray(mean + np.einsum("bde,sbe->sbd", np.linalg.cholesky(matrix), noise))
        z_tilde = jax.jit(contrast.whiten)(z, reference_of_draws(z, "full"))
        expected = sample_reference(key, z, True, "full")
    np.testing.assert_allclose(z_tilde, expected, atol=1e-9)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_gradients_flow_through_the_moments_of_the_draws(covariance):
    z = np.random.default_rng(5).normal(size=(6, 2, 3))
    at = np.random.default_rng(6).normal(size=(6, 2, 3))

    def terms(z):
        reference = reference_of_draws(z, covariance)
        log_density = contrast.log_density(jnp.asarray(at), reference)
        return contrast.log_scale(reference, z), contrast.whiten(z, reference), log_density

    with jax.enable_x64(True):
        check_grads(jax.jit(terms), (jnp.asarray(z),), order=1, modes=["rev"])
        gradient = jax.jit(jax.grad(lambda z: -2.0 * jnp.sum(terms(z)[0])))(z)
    # In closed form: −∂ log|C| / ∂z_s = −(2/S) C⁻¹ (z_s − m), of the diagonal alone where asked.
    for b in range(2):
        matrix = np.cov(z[:, b].T, bias=True)
        matrix = np.diag(np.diagonal(matrix)) if covariance == "diagonal" else matrix
        expected = -2.0 / 6 * np.linalg.solve(matrix, (z[:, b] - z[:, b].mean(0)).T).T
        np.testing.assert_allclose(gradient[:, b], expected, rtol=1e-9)


def encoding_with(moments: Moments | None) -> Encoding:
    return Encoding(
        jnp.asarray(np.random.default_rng(7).normal(size=(12, 2, 3)), "float32"), moments
    )


def assert_same_gaussian(actual: Gaussian, expected: Gaussian) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_reference_of_the_prior_is_none():
    prior = Contrast("prior")
    encoding = encoding_with(None)
    assert prior.reference({}, jnp.zeros((2, 1, 1, 1)), encoding) is None
    assert not prior.whitens_draws(encoding)
    assert prior.log_scale_bias(encoding) == 0.0


def test_reference_that_is_learned_is_the_networks():
    def network(params, x):
        scale_tril = jnp.broadcast_to(params["scale"] * jnp.eye(3), (x.shape[0], 3, 3))
        return Gaussian(x[:, 0, 0] * params["slope"], scale_tril)

    learned = Contrast("learned", network=network)
    params = {"slope": jnp.array([[1.0, 2.0, 3.0]]), "scale": jnp.float32(0.5)}
    x = jnp.array([1.0, -2.0]).reshape(2, 1, 1, 1)
    encoding = encoding_with(None)
    reference = learned.reference(params, x, encoding)
    np.testing.assert_array_equal(reference.mean, [[1.0, 2.0, 3.0], [-2.0, -4.0, -6.0]])
    np.testing.assert_array_equal(reference.scale_tril[1], 0.5 * np.eye(3))
    assert not learned.whitens_draws(encoding)
    assert learned.log_scale_bias(encoding) == 0.0


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_reference_of_moments_prefers_the_encoders_own(covariance):
    of_moments = Contrast("moments", covariance)
    x = jnp.zeros((2, 1, 1, 1))
    known = Moments(jnp.ones((2, 3)), jnp.stack([2.0 * jnp.eye(3) + 0.5] * 2))
    given = encoding_with(known)
    assert_same_gaussian(
        of_moments.reference({}, x, given), contrast.from_moments(known, covariance)
    )
    assert not of_moments.whitens_draws(given)
    assert of_moments.log_scale_bias(given) == 0.0
    factored = known._replace(scale_tril=jnp.linalg.cholesky(known.covariance))
    assert_same_gaussian(
        contrast.from_moments(factored, covariance), contrast.from_moments(known, covariance)
    )

    drawn = encoding_with(None)
    of_draws = contrast.from_moments(contrast.sample_moments(drawn.z), covariance)
    assert_same_gaussian(of_moments.reference({}, x, drawn), of_draws)
    assert of_moments.whitens_draws(drawn)
    assert of_moments.log_scale_bias(drawn) == contrast.log_scale_bias(12, 3, covariance)
