"""Importance sampling against exact likelihoods: value, gradient and effective sample size."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats.multivariate_normal import logpdf

from avb_jax.evaluation import evaluate_log_likelihood, importance_log_likelihood
from avb_jax.types import Params

LOG_2PI = math.log(2 * math.pi)
EXACT, NARROW, SHIFTED = (1.0, 0.0), (0.6, 0.0), (1.0, 0.7)


def normal_log_density(x, mean, scale):
    return jnp.sum(-0.5 * ((x - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * LOG_2PI, axis=-1)


class LinearGaussian(NamedTuple):
    """z ~ N(0, I), x|z ~ N(W z + b, s² I); q is the exact posterior, scaled and shifted."""

    latent_dim: int = 3
    on_trace: object = None  # called when log_joint is traced

    def posterior(self, decoder, x):
        weight, precision = decoder["weight"], jnp.exp(-2 * decoder["log_scale"])
        covariance = jnp.linalg.inv(jnp.eye(self.latent_dim) + precision * weight.T @ weight)
        mean = precision * (x - decoder["bias"][None]) @ weight @ covariance
        return mean, jnp.linalg.cholesky(covariance)

    def sample_posterior(self, params, key, x, num_samples):
        mean, scale_tril = self.posterior(params.decoder, x)
        noise = jax.random.normal(key, (num_samples, *mean.shape))
        noise = params.encoder["scale"] * noise + params.encoder["shift"]
        return mean[None] + noise @ scale_tril.T

    def log_joint(self, params, x, z):
        if self.on_trace:
            self.on_trace()
        decoder = params.decoder
        location = z @ decoder["weight"].T + decoder["bias"][None, None]
        log_likelihood = normal_log_density(x[None], location, jnp.exp(decoder["log_scale"]))
        return log_likelihood + normal_log_density(z, 0.0, 1.0)

    @partial(jax.jit, static_argnums=0)
    def exact(self, params, x):
        weight, bias, log_scale = (params.decoder[k] for k in ("weight", "bias", "log_scale"))
        covariance = weight @ weight.T + jnp.exp(2 * log_scale) * jnp.eye(weight.shape[0])
        return jax.vmap(logpdf, (0, None, None))(x, bias, covariance)


class SigmaPoints(LinearGaussian):
    """The exact posterior by 2 D points that have its mean and its covariance exactly."""

    def sample_posterior(self, params, key, x, num_samples):
        mean, scale_tril = self.posterior(params.decoder, x)
        offsets = math.sqrt(self.latent_dim) * scale_tril.T
        return mean[None] + jnp.concatenate([offsets, -offsets])[:, None]


class Banana(NamedTuple):
    """x|z ~ N(z₂ + z₁² − 1, s²); q is implicit: curved, and with too wide a z₁."""

    latent_dim: int = 2

    def sample_posterior(self, params, key, x, num_samples):
        first, second = jax.random.normal(key, (2, num_samples, x.shape[0]))
        variance = jnp.exp(2 * params.decoder["log_scale"])
        mean = (x[:, 0][None] - first**2 + 1.0) / (1.0 + variance)
        return jnp.stack([first, mean + jnp.sqrt(variance / (1 + variance)) * second], axis=-1)

    def log_joint(self, params, x, z):
        location = z[..., 1:] + z[..., :1] ** 2 - 1.0
        scale = jnp.exp(params.decoder["log_scale"])
        return normal_log_density(x[None], location, scale) + normal_log_density(z, 0.0, 1.0)

    @partial(jax.jit, static_argnums=0)
    def exact(self, params, x):
        """z₂ integrates out in closed form, z₁ over a grid."""
        grid = jnp.linspace(-6.0, 6.0, 2001)[:, None, None]
        scale = jnp.sqrt(1.0 + jnp.exp(2 * params.decoder["log_scale"]))
        log_joint = normal_log_density(x[None], grid**2 - 1.0, scale)
        log_joint += normal_log_density(grid, 0.0, 1.0)
        return jax.nn.logsumexp(log_joint, axis=0) + math.log(12.0 / 2000)


def make_params(encoder=EXACT, dim=3, event=4):
    key_weight, key_bias = jax.random.split(jax.random.key(7))
    decoder = {
        "weight": jax.random.normal(key_weight, (event, dim)),
        "bias": jax.random.normal(key_bias, (event,)),
        "log_scale": jnp.float32(-0.7),
    }
    encoder = dict(zip(("scale", "shift"), map(jnp.float32, encoder), strict=True))
    return Params(encoder, decoder, critic={})


def make_images(params, count):
    """Draws of x from the model."""
    keys = jax.random.split(jax.random.key(8))
    weight, bias, log_scale = (params.decoder[k] for k in ("weight", "bias", "log_scale"))
    x = jax.random.normal(keys[0], (count, weight.shape[1])) @ weight.T + bias[None]
    return x + jnp.exp(log_scale) * jax.random.normal(keys[1], x.shape)


def test_exact_posterior_has_constant_weights(key):
    model, params = SigmaPoints(), make_params()
    x = make_images(params, 6)
    result = importance_log_likelihood(
        model, params, key, x,
        num_samples=37, num_refits=0, inflation=1.0, degrees_of_freedom=math.inf, block_size=5,
    )  # fmt: skip
    np.testing.assert_allclose(result.log_likelihood, model.exact(params, x), atol=1e-4)
    np.testing.assert_allclose(result.effective_sample_size, 37, rtol=1e-6)


def test_effective_sample_size_is_that_of_an_inflated_gaussian(key):
    """ESS/S tends to (√(2c² − 1)/c²)^D for a Gaussian c times too wide; S = 10,000, 2%."""
    model, params = SigmaPoints(), make_params()
    x = make_images(params, 6)
    result = importance_log_likelihood(
        model, params, key, x,
        num_samples=10_000, num_refits=0, inflation=1.5, degrees_of_freedom=math.inf,
        block_size=1000,
    )  # fmt: skip
    expected = 10_000 * (math.sqrt(2 * 1.5**2 - 1) / 1.5**2) ** 3
    np.testing.assert_allclose(result.effective_sample_size, expected, rtol=0.02)


CASES = {
    "exact": (LinearGaussian(), EXACT, 100),
    "narrow": (LinearGaussian(), NARROW, 100),
    "shifted": (LinearGaussian(), SHIFTED, 100),
    "banana": (Banana(), EXACT, 100),
    "one-sample": (LinearGaussian(), EXACT, 1),
}


@pytest.mark.parametrize(("model", "encoder", "num_samples"), CASES.values(), ids=CASES)
def test_weights_are_unbiased_and_their_log_a_lower_bound(key, model, encoder, num_samples):
    """Over 1,000 images: E ŵ/p(x) = 1 within 4 standard errors, E log ŵ <= log p(x) within 3."""
    params = make_params(encoder)
    x = make_images(params, 1000)[:, : 1 if isinstance(model, Banana) else 4]
    result = importance_log_likelihood(model, params, key, x, num_samples=num_samples)
    gap = np.asarray(result.log_likelihood - model.exact(params, x), np.float64)
    ratio = np.exp(gap)
    assert abs(ratio.mean() - 1.0) < 4 * ratio.std() / math.sqrt(gap.size)
    assert gap.mean() < 3 * gap.std() / math.sqrt(gap.size)
    assert gap.mean() > (-0.1 if num_samples == 100 else -1.0)
    ess = np.asarray(result.effective_sample_size)
    assert ess.min() >= 1 - 1e-5 and ess.max() <= num_samples * (1 + 1e-5)


@pytest.mark.parametrize("encoder", [NARROW, SHIFTED, (0.6, 0.7)])
def test_refits_make_up_for_the_encoder(key, encoder):
    """Refits bring the effective sample size within 15% of that where q is exact.

    Over 200 images of 1,000 draws, whose mean is known to a percent.
    """
    model = LinearGaussian(latent_dim=8)
    x = make_images(make_params(dim=8), 200)

    def share(encoder, num_refits):
        params = make_params(encoder, dim=8)
        result = importance_log_likelihood(
            model, params, key, x, num_samples=1000, num_refits=num_refits
        )
        return np.mean(result.effective_sample_size) / 1000

    exact = share(EXACT, 0)
    assert share(encoder, 4) > 0.85 * exact > share(encoder, 0)


@pytest.mark.parametrize(("dim", "draws"), [(3, 256), (32, 1024)])
def test_a_proposal_is_fitted_to_more_draws_in_more_dimensions(key, dim, draws):
    """max(256, 32 D) of them; in 32 dimensions the effective sample size is half as large again."""
    params = make_params(dim=dim, event=40)
    x, options = make_images(params, 5), {"num_samples": 200}
    found = importance_log_likelihood(LinearGaussian(dim), params, key, x, **options)
    told = importance_log_likelihood(LinearGaussian(dim), params, key, x, num_fit=draws, **options)
    np.testing.assert_array_equal(found.log_likelihood, told.log_likelihood)
    if draws > 256:
        few = importance_log_likelihood(LinearGaussian(dim), params, key, x, num_fit=256, **options)
        assert np.mean(found.effective_sample_size) > 1.5 * np.mean(few.effective_sample_size)


def test_draws_are_independent(key):
    """The variance of log ŵ is 1/ESS − 1/S to first order: within 30%, over 1,000 images."""
    model, params = LinearGaussian(), make_params(EXACT)
    x = make_images(params, 1000)
    result = importance_log_likelihood(model, params, key, x, num_samples=100)
    variance = np.var(result.log_likelihood - model.exact(params, x))
    expected = np.mean(1 / result.effective_sample_size) - 1 / 100
    np.testing.assert_allclose(variance, expected, rtol=0.3)


def test_gradient_is_that_of_the_log_likelihood(key):
    """Within 4 standard errors over 64 keys for θ, every entry; zero for the encoder."""
    model, params = LinearGaussian(), make_params(NARROW)
    x = make_images(params, 2)

    def estimate(params, key):
        result = importance_log_likelihood(model, params, key, x, num_samples=1000, block_size=250)
        return jnp.sum(result.log_likelihood)

    gradient = jax.grad(estimate)
    keys = jax.random.split(key, 64)
    gradients = jax.lax.map(lambda key: gradient(params, key), keys)
    exact = jax.jit(jax.grad(lambda params: jnp.sum(model.exact(params, x))))(params)
    for name, draws in gradients.decoder.items():
        error = jnp.abs(jnp.mean(draws, axis=0) - exact.decoder[name])
        standard_error = jnp.std(draws, axis=0) / 8.0
        assert jnp.all(error < 4 * standard_error), name
        assert jnp.all(standard_error < 0.05 * jnp.abs(exact.decoder[name]).max()), name
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(gradients.encoder))


def test_blocks_do_not_matter(key):
    model, params = LinearGaussian(), make_params(SHIFTED)
    x = make_images(params, 1000)
    whole = importance_log_likelihood(model, params, key, x, num_samples=100)
    found = importance_log_likelihood(model, params, key, x, num_samples=100, block_size=30)
    np.testing.assert_allclose(found.log_likelihood, whole.log_likelihood, rtol=1e-5)
    np.testing.assert_allclose(found.effective_sample_size, whole.effective_sample_size, rtol=1e-4)


def test_ragged_test_set_in_one_compilation(key, capsys):
    """Each image has its own key's result, in whatever batch; the bar shows the running means."""
    traces = []
    model, params = LinearGaussian(on_trace=lambda: traces.append(1)), make_params(SHIFTED)
    images = np.asarray(make_images(params, 7))
    options = {"num_samples": 40, "batch_size": 3}
    first = evaluate_log_likelihood(model, params, key, images[:3], **options, progress=False)
    compiled = len(traces)
    assert compiled > 0 and capsys.readouterr().err == ""
    result = evaluate_log_likelihood(model, params, key, images, **options)
    assert len(traces) == compiled
    shown = capsys.readouterr().err
    assert "7/7" in shown and "images/s" in shown
    assert f"log_likelihood={result['log_likelihood'].mean():.2f}" in shown
    assert f"effective_sample_size={result['effective_sample_size'].mean():.2f}" in shown

    last_key = jax.random.fold_in(key, 6)
    last = importance_log_likelihood(model, params, last_key, images[6:], num_samples=40)
    for name, found in result.items():
        assert isinstance(found, np.ndarray) and found.shape == (7,)
        np.testing.assert_array_equal(found[:3], first[name])
        if name in last._fields:
            np.testing.assert_allclose(found[6:], getattr(last, name), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples was 0"),
        ({"num_fit": 0}, "num_fit was 0"),
        ({"block_size": -1}, "block_size was -1"),
        ({"num_refits": -1}, "num_refits was -1; allowed is 0 or more"),
        ({"inflation": 0.0}, "inflation was 0.0"),
        ({"degrees_of_freedom": 0}, "degrees_of_freedom was 0"),
        ({"degrees_of_freedom": 2.5}, "degrees_of_freedom was 2.5"),
    ],
)
def test_bad_arguments_are_named(key, options, message):
    params = make_params()
    with pytest.raises(ValueError, match=message):
        importance_log_likelihood(LinearGaussian(), params, key, jnp.zeros((1, 4)), **options)


def test_bad_evaluation_arguments_are_named(key):
    model, params = LinearGaussian(), make_params()
    with pytest.raises(ValueError, match="images was 0"):
        evaluate_log_likelihood(model, params, key, np.zeros((0, 4), np.float32))
    with pytest.raises(ValueError, match="batch_size was 0"):
        evaluate_log_likelihood(model, params, key, np.zeros((2, 4), np.float32), batch_size=0)
