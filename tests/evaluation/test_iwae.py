"""The importance-weighted bound against closed forms and a grid: value, gradient, direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avb_jax as avb
from avb_jax.contrast import Contrast
from avb_jax.densities import gaussian_log_prob
from avb_jax.evaluation import evaluate_iwae, importance_log_likelihood, iwae_bound
from avb_jax.types import Encoding, Gaussian

WEIGHT, NOISE = 1.3, 0.6
X = jnp.array([[-1.0], [0.4], [1.7]])
EXACT = jax.scipy.stats.norm.logpdf(X[:, 0], 0.0, (WEIGHT**2 + NOISE**2) ** 0.5)
VARIANCE = 1.0 / (1.0 + WEIGHT**2 / NOISE**2)
SLOPE = VARIANCE * WEIGHT / NOISE**2
OFF = avb.Params({"a": jnp.float32(0.7 * SLOPE), "b": jnp.float32(1.4 * VARIANCE**0.5)}, {}, {})


def model(implicit: bool = False) -> avb.Model:
    """x|z ~ N(WEIGHT z, NOISE²); q(z|x) = N(a x, b²), whose density an implicit one hides."""

    def encode(params, key, x, num_samples):
        phi = params.encoder
        density = Gaussian(phi["a"] * x, jnp.broadcast_to(phi["b"], (x.shape[0], 1, 1)))
        z = density.mean[None] + phi["b"] * jax.random.normal(key, (num_samples, x.shape[0], 1))
        return Encoding(z, density=None if implicit else density)

    return avb.Model(
        event_shape=(1,),
        latent_dim=1,
        init=lambda key: None,
        encode=encode,
        decode=lambda theta, z: WEIGHT * z,
        log_likelihood=lambda mean, x: gaussian_log_prob((mean, jnp.log(jnp.full(1, NOISE))), x),
        mean=lambda mean: mean,
        log_ratio=(lambda params, view, z: 100.0 + 0.0 * z[..., 0]) if implicit else None,
        contrast=Contrast("moments"),
    )


def on_a_grid(phi, x, num_samples: int):
    """L_K in closed form for K = 1, and by a sum over a grid of both draws for K = 2: scalar."""
    noise = jnp.linspace(-7.0, 7.0, 701)
    mass = jax.scipy.stats.norm.pdf(noise) * (noise[1] - noise[0])
    z = phi["a"] * x + phi["b"] * noise
    log_p = jax.scipy.stats.norm.logpdf(x, WEIGHT * z, NOISE) + jax.scipy.stats.norm.logpdf(z)
    log_w = log_p - jax.scipy.stats.norm.logpdf(noise) + jnp.log(phi["b"])
    if num_samples == 1:
        return jnp.sum(mass * log_w)
    pairs = jnp.logaddexp(log_w[:, None], log_w[None]) - jnp.log(2.0)
    return jnp.einsum("i,j,ij->", mass, mass, pairs)


@pytest.mark.parametrize("num_samples", [1, 2])
def test_value_and_gradient_are_those_of_the_sum_over_all_draws(num_samples):
    """Within 4 standard errors of the mean over 20,000 keys, for each x and each of a and b."""
    truth = jax.jit(jax.vmap(jax.value_and_grad(on_a_grid), (None, 0, None)), static_argnums=2)
    value, gradient = truth(OFF.encoder, X[:, 0], num_samples)
    keys = jax.random.split(jax.random.key(num_samples), 20_000)

    def bound(phi, key, x):
        params = OFF._replace(encoder=phi)
        result = iwae_bound(model(), params, key, x[None], num_samples=num_samples)
        return result.log_likelihood[0]

    over_keys = jax.vmap(jax.value_and_grad(bound), (None, 0, None))
    found = jax.jit(jax.vmap(over_keys, (None, None, 0)))(OFF.encoder, keys, X)
    for drawn, exact in ((found[0], value), *((found[1][n], gradient[n]) for n in ("a", "b"))):
        drawn = np.asarray(drawn, np.float64)
        error = drawn.std(axis=1) / drawn.shape[1] ** 0.5
        np.testing.assert_array_less(np.abs(drawn.mean(axis=1) - exact), 4.0 * error)


def test_it_rises_with_the_draws_to_log_p():
    """Means over 2,000 keys; above log p by at most 3 standard errors at any K."""
    keys = jax.random.split(jax.random.key(0), 2000)
    means = []
    for num_samples in (1, 4, 64):
        one = lambda key, k=num_samples: iwae_bound(model(), OFF, key, X, num_samples=k)  # noqa: E731
        values = np.asarray(jax.jit(jax.vmap(one))(keys).log_likelihood, np.float64)
        error = values.std(axis=0) / len(keys) ** 0.5
        assert np.all(values.mean(axis=0) < EXACT + 3.0 * error)
        means.append(values.mean(axis=0))
    assert np.all(means[0] < means[1]) and np.all(means[1] < means[2])
    np.testing.assert_allclose(means[2], EXACT, atol=0.02)


def test_an_implicit_encoder_is_weighed_by_a_fitted_density_never_by_its_critic():
    """The critic here says 100 nats too much."""
    key = jax.random.key(1)
    found = iwae_bound(model(implicit=True), OFF, key, X, num_samples=50)
    counts = {"num_samples": 50, "num_refits": 0}
    expected = importance_log_likelihood(model(implicit=True), OFF, key, X, **counts)
    np.testing.assert_array_equal(found.log_likelihood, expected.log_likelihood)
    np.testing.assert_allclose(found.log_likelihood, EXACT, atol=0.5)


def test_over_a_ragged_test_set():
    images = np.tile(np.asarray(X), (3, 1))
    found = evaluate_iwae(
        model(), OFF, jax.random.key(0), images, num_samples=2000, batch_size=4, progress=False
    )
    np.testing.assert_allclose(found["log_likelihood"], np.tile(EXACT, 3), atol=0.1)
    assert found["effective_sample_size"].shape == (9,)


def test_a_wrong_count_is_one_sentence():
    with pytest.raises(ValueError, match="num_samples was 0; allowed is 1 or more"):
        iwae_bound(model(), OFF, jax.random.key(0), X, num_samples=0)
