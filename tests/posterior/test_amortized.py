"""One posterior for each row: a linear-Gaussian model's are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avb_jax as avb

QUICK = avb.posterior.Settings(
    num_steps=200, num_samples=512, width=16, depth=1, transitions=6, leapfrog=4
)
NOISE = 0.5


def log_joint(x, z):
    """z ~ N(0, 1), x_f ~ N(z, ½²), two of them."""
    return -0.5 * jnp.square(z[0]) - 0.5 * jnp.sum(jnp.square((x - z[0]) / NOISE))


@pytest.mark.slow
def test_each_row_has_its_own_posterior():
    """N(m(x), 1/9), m(x) = 4 Σ x/9: means within 0.05, standard deviations within 8%."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 1))
    x = z + NOISE * rng.normal(size=(200, 2))
    fit = avb.posterior.fit_amortized(log_joint, x, 1, jax.random.key(0), settings=QUICK)
    draws = np.asarray(fit.sample(jax.random.key(1), x[:20], 500))
    assert draws.shape == (500, 20, 1)
    exact, scale = 4.0 * x[:20].sum(axis=1) / 9.0, 1.0 / 3.0
    assert np.mean(np.abs(draws.mean(axis=0)[:, 0] - exact)) < 0.05
    assert abs(np.mean(draws.std(axis=0)) / scale - 1.0) < 0.08
    at = jnp.asarray(draws[:5], jnp.float32)
    log_q = fit.log_density_estimate(jax.random.key(2), x[:20], at)
    truth = -0.5 * jnp.square((at[..., 0] - exact[None]) / scale) - np.log(
        scale * (2 * np.pi) ** 0.5
    )
    assert np.mean(np.abs(log_q - truth)) < 0.3
    with pytest.raises(ValueError, match=r"x had shape \(3, 5\); allowed is \[B, 2\]"):
        fit.sample(jax.random.key(1), np.zeros((3, 5)), 2)


@pytest.mark.slow
def test_log_joint_is_given_the_rows_to_the_last_bit():
    """Integers, which would not survive being standardised and taken back: NaN for any other x."""
    x = np.random.default_rng(0).integers(0, 10, (64, 2)).astype(np.float32)

    def of_integers(x, z):
        return jnp.where(jnp.all(x == jnp.round(x)), log_joint(x, z), jnp.nan)

    settings = QUICK._replace(num_steps=2)
    fit = avb.posterior.fit_amortized(of_integers, x, 1, jax.random.key(0), settings=settings)
    assert np.isfinite(fit.sample(jax.random.key(1), x, 2)).all()


def test_data_of_another_shape_is_one_sentence():
    with pytest.raises(ValueError, match=r"data had shape \(3,\); allowed is \[n, F\]"):
        avb.posterior.fit_amortized(log_joint, np.zeros(3), 1, jax.random.key(0))
