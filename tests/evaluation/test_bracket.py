"""The bracket of E_q[log q], and q on a grid, against semi-implicit posteriors of known entropy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import avb_jax as avb
from avb_jax.densities import LOG_2PI, log_prior
from avb_jax.evaluation import elbo_bracket, quadrature_elbo

D = 2
X = np.linspace(-1.0, 1.0, 40, dtype=np.float32)[:, None] * np.ones((1, D), np.float32)
FACTOR = np.array([[0.5, 0.0], [0.2, 0.4]], np.float32)
SIGMAS = 5.0  # tolerated standard errors, at a fixed seed


class Linear(NamedTuple):
    """q(z|x, ε) = N(x + A ε, τ² I), so that q(z|x) = N(x, A Aᵀ + τ² I); log p(x, z) is made up.

    `per_draw`: the kernel's scale comes once for each draw rather than once for all.
    """

    per_draw: bool = False
    latent_dim: int = D

    def encode(self, params, key, x, num_samples):
        key_noise, key_kernel = jax.random.split(key)
        noise = jax.random.normal(key_noise, (num_samples, *x.shape))
        mean = x[None] + jnp.einsum("de,sbe->sbd", params["factor"], noise)
        count = num_samples if self.per_draw else 1
        scale = jnp.broadcast_to(params["blur"] * jnp.eye(D), (count, *x.shape, D))
        z = mean + params["blur"] * jax.random.normal(key_kernel, mean.shape)
        return avb.Encoding(z, kernel=avb.Kernel(mean, scale))

    def log_joint(self, params, x, z):
        del params
        return log_prior(z) - jnp.sum(jnp.square(z - x[None]), axis=-1)


def exact(params):
    """(E_q[log q], E_q[log p(x, z)], E_q[log p(z)]), means over X."""
    covariance = params["factor"] @ params["factor"].T + params["blur"] ** 2 * jnp.eye(D)
    log_q = -0.5 * (D * (1.0 + LOG_2PI) + jnp.linalg.slogdet(covariance)[1])
    of_prior = -0.5 * (jnp.trace(covariance) + D * LOG_2PI + jnp.mean(jnp.sum(X**2, -1)))
    return log_q, of_prior - jnp.trace(covariance), of_prior


def make_params(blur=0.3):
    return {"factor": jnp.asarray(FACTOR), "blur": jnp.float32(blur)}


def elbo_of_draws(params, key, x, draws):
    """The ELBO of each x at the draws that the bracket has by this key; and their log q."""
    z = Linear().encode(params, jax.random.split(key)[0], x, draws).z
    covariance = FACTOR @ FACTOR.T + params["blur"] ** 2 * np.eye(D)
    log_q = multivariate_normal.logpdf(z - x[None], np.zeros(D), covariance)
    return np.mean(np.asarray(Linear().log_joint(params, x, z)) - log_q, axis=0), log_q


@pytest.mark.parametrize("per_draw", [False, True])
def test_many_kernels_close_the_bracket_on_the_truth(per_draw, key):
    """Value and gradient in τ, each within SIGMAS standard errors over the x."""
    params = make_params()
    model = Linear(per_draw)

    def mean_bound(blur, name):
        found = elbo_bracket(
            model, {**params, "blur": blur}, key, X, num_samples=16, num_kernels=2048
        )
        return getattr(found, name)

    log_q, log_joint, of_prior = exact(params)
    for name, truth in (
        ("elbo_lower", log_joint - log_q),
        ("elbo_upper", log_joint - log_q),
        ("kl_lower", log_q - of_prior),
        ("kl_upper", log_q - of_prior),
    ):
        values = np.asarray(mean_bound(params["blur"], name))
        assert abs(values.mean() - truth) < SIGMAS * values.std() / len(X) ** 0.5
    gradients = np.asarray(jax.jacobian(mean_bound)(params["blur"], "elbo_lower"))
    truth = jax.grad(lambda blur: _elbo({**params, "blur": blur}))(params["blur"])
    assert abs(gradients.mean() - truth) < SIGMAS * gradients.std() / len(X) ** 0.5


def _elbo(params):
    log_q, log_joint, _ = exact(params)
    return log_joint - log_q


def test_few_kernels_leave_the_truth_inside(key):
    """With 8 of them both bounds are far off, each on its own side."""
    params = make_params()
    found = elbo_bracket(Linear(), params, key, X, num_samples=16, num_kernels=8)
    elbo = float(_elbo(params))
    assert np.mean(found.elbo_lower) < elbo - 0.1 and np.mean(found.elbo_upper) > elbo + 0.1
    np.testing.assert_allclose(
        found.elbo_upper - found.elbo_lower, found.kl_upper - found.kl_lower, rtol=1e-4
    )


def test_there_is_no_bound_where_rounding_hides_the_kernel(key):
    """NaN, where it would be millions of nats on the wrong side; the others' stay."""
    x = np.array([[0.0, 0.0], [1e5, 1e5]], np.float32)
    found = elbo_bracket(Linear(), make_params(1e-3), key, x, num_kernels=64)
    np.testing.assert_array_equal(np.isfinite(found.elbo_lower), [True, False])
    np.testing.assert_array_equal(np.isfinite(found.elbo_upper), [True, False])


def test_an_encoder_without_a_kernel_is_refused(key):
    class Bare(Linear):
        def encode(self, *args):
            return super().encode(*args)._replace(kernel=None)

    with pytest.raises(ValueError, match="offers no kernel"):
        elbo_bracket(Bare(), make_params(), key, X)
    with pytest.raises(ValueError, match="num_kernels was 1500; allowed is a multiple of 1024"):
        elbo_bracket(Linear(), make_params(), key, X, num_kernels=1500)
    with pytest.raises(ValueError, match="num_kernels was 1000; allowed are multiples of 16384"):
        quadrature_elbo(Linear(), make_params(), key, X, num_kernels=1000)


@pytest.mark.parametrize("blur", [0.3, 0.02])
def test_the_elbo_on_a_grid_is_the_closed_form(blur, key):
    """Within SIGMAS standard errors of its mean over draws, and the bias that the grid allows."""
    params, draws, x = make_params(blur), 2**13, jnp.asarray(X[::20])
    values = quadrature_elbo(Linear(), params, key, x, num_kernels=2**18, num_samples=draws)
    covariance = FACTOR @ FACTOR.T + blur**2 * np.eye(D)
    log_q = -0.5 * (D * (1.0 + LOG_2PI) + np.linalg.slogdet(covariance)[1])
    for value, centre in zip(values, np.asarray(x), strict=True):
        trace = np.trace(covariance)
        log_joint = -0.5 * (trace + centre @ centre + D * LOG_2PI) - trace
        # log p(x, z) − log q is quadratic in z: zᵀ A z + bᵀ z, of variance 2 tr(A C A C) + bᵀ C b.
        matrix = 0.5 * np.linalg.inv(covariance) - 1.5 * np.eye(D)
        product = matrix @ covariance
        variance = 2.0 * np.trace(product @ product) + centre @ covariance @ centre
        assert abs(value - (log_joint - log_q)) < SIGMAS * (variance / draws) ** 0.5 + 2e-3


def test_the_grid_has_the_draws_of_the_bracket(key):
    """64 of each x, by whose noise they would miss each other: log q is the truth's at those."""
    params, x, draws = make_params(), jnp.asarray(X[::20]), 64
    truth, _ = elbo_of_draws(params, key, x, draws)
    values = quadrature_elbo(Linear(), params, key, x, num_kernels=2**18, num_samples=draws)
    np.testing.assert_allclose(values, truth, atol=2e-3)
    found = elbo_bracket(Linear(), params, key, x, num_samples=draws, num_kernels=2**12)
    slack = 0.015  # 4 standard errors of the noise of 4,096 kernels
    assert np.all(found.elbo_lower - slack < values) and np.all(values < found.elbo_upper + slack)
    others = quadrature_elbo(Linear(), params, key, x, num_kernels=2**18, num_samples=2**13)
    assert np.max(np.abs(values - others)) > 2.0 * slack


def test_few_kernels_bias_the_grid_in_second_order_alone(key):
    """The first, E_q[1 / q] ∫κ² / (2 M) with ∫κ² = 1 / (4 π τ²), is four times what is left."""
    blur, draws, kernels, x = 0.02, 2**12, 2**15, jnp.asarray(X[::20])
    params = make_params(blur)
    truth, log_q = elbo_of_draws(params, key, x, draws)
    values = quadrature_elbo(Linear(), params, key, x, num_kernels=kernels, num_samples=draws)
    first_order = np.mean(np.exp(-log_q)) / (8.0 * np.pi * blur**2 * kernels)
    assert first_order > 0.03
    assert np.all(np.abs(values - truth) < first_order / 4.0)


def test_what_no_grid_can_hold_is_refused(key):
    with pytest.raises(ValueError, match="latent_dim was 3; allowed is 2"):
        quadrature_elbo(Linear(latent_dim=3), make_params(), key, X)
    with pytest.raises(ValueError, match="not one scale for each x"):
        quadrature_elbo(Linear(per_draw=True), make_params(), key, jnp.asarray(X))
