"""NumPyro models as they are: a conjugate posterior, ArviZ's groups, and the guide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avb_jax as avb
from avb_jax.posterior import numpyro_models

numpyro = pytest.importorskip("numpyro", reason="needs the extra `inference`")
dist = pytest.importorskip("numpyro.distributions")

QUICK = avb.posterior.Settings(
    num_steps=200, num_samples=128, width=16, depth=1, transitions=6, leapfrog=4
)
Y = jnp.array([1.2, 0.4, 2.0, 1.1, 0.8])
N = 2000


def model(scale, y=None):
    """μ ~ N(0, 1), σ² known: the posterior is N(Σy/(n + σ²), σ²/(n + σ²)); ρ is its own prior."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("rho", dist.Beta(2.0, 2.0))
    numpyro.deterministic("double", 2.0 * mu)
    with numpyro.plate("data", 5):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


@pytest.fixture(scope="module")
def guide():
    return avb.posterior.AutoAVB(model, settings=QUICK).fit(jax.random.key(0), 0.5, y=Y)


def test_draws_are_in_the_model_s_own_space(guide):
    """Means within 4 standard errors and 2% of a standard deviation."""
    draws = guide.posterior.sample(jax.random.key(1), N)
    assert {name: value.shape for name, value in draws.items()} == {
        "mu": (N,), "rho": (N,), "double": (N,)
    }  # fmt: skip
    mean, scale = float(Y.sum()) / 5.25, (0.25 / 5.25) ** 0.5
    assert abs(np.mean(draws["mu"]) - mean) < (4.0 / N**0.5 + 0.02) * scale
    assert abs(np.std(draws["mu"]) / scale - 1.0) < 4.0 / (2.0 * N) ** 0.5 + 0.02
    assert np.all((draws["rho"] > 0.0) & (draws["rho"] < 1.0))
    assert abs(np.mean(draws["rho"]) - 0.5) < (4.0 / N**0.5 + 0.02) * 0.05**0.5
    np.testing.assert_allclose(draws["double"], 2.0 * draws["mu"], rtol=1e-6)


def test_arviz_s_groups(guide):
    data = guide.posterior.to_arviz(jax.random.key(2), 100)
    groups = {"posterior", "log_likelihood", "posterior_predictive", "sample_stats",
              "observed_data"}  # fmt: skip
    assert groups <= set(data.groups())
    assert data.log_likelihood["y"].shape == (1, 100, 5)
    predicted = np.asarray(data.posterior_predictive["y"])
    assert predicted.shape == (1, 100, 5) and not np.allclose(predicted, np.asarray(Y))
    import arviz as az

    assert np.isfinite(az.loo(data).elpd_loo)
    assert set(az.summary(data).index) == {"mu", "rho", "double"}


def of_parts(data):
    """The model above, its data a part of an argument, and a `factor` besides."""
    model(data["scale"], data["y"])
    numpyro.factor("nothing", jnp.zeros(()))


@pytest.mark.parametrize(
    ("of", "arguments"), [(model, (0.5, Y)), (of_parts, ({"scale": 0.5, "y": Y},))]
)
def test_predictions_are_not_the_data_however_these_are_given(guide, of, arguments):
    """y ~ N(m, s² + σ²), N(m, s²) being μ's posterior: 4 standard errors of 2,000 draws, and 2%."""
    space = numpyro_models._Space(of, jax.random.key(0), arguments, {})
    fit = numpyro_models.NumPyroPosterior(guide.posterior.flat, of, space, (arguments, {}))
    data = fit.to_arviz(jax.random.key(2), N)
    predicted = np.asarray(data.posterior_predictive["y"]).reshape(-1, 5)
    # The five predictions of one draw share its μ: they count as one.
    scale, error = (0.25 / 5.25 + 0.25) ** 0.5, 4.0 / N**0.5 + 0.02
    assert abs(predicted.mean() - float(Y.sum()) / 5.25) < error * scale
    assert abs(predicted.std() / scale - 1.0) < error
    np.testing.assert_array_equal(data.observed_data["y"], Y)


def test_a_saved_posterior_of_a_model_is_given_back(guide, tmp_path):
    guide.posterior.save(tmp_path / "fit")
    loaded = avb.posterior.load_numpyro(tmp_path / "fit", model, 0.5, y=Y)
    first, second = (fit.sample(jax.random.key(3), 5) for fit in (guide.posterior, loaded))
    np.testing.assert_array_equal(first["mu"], second["mu"])

    def another(scale, y=None):
        numpyro.sample("mu", dist.Normal(0.0, scale))

    with pytest.raises(ValueError, match=r"shape \(2,\).*model has 1 unconstrained"):
        avb.posterior.load_numpyro(tmp_path / "fit", another, 0.5, y=Y)


@pytest.mark.slow
def test_the_guide_serves_predictive(guide):
    predictive = numpyro.infer.Predictive(model, guide=guide, params={}, num_samples=7)
    with jax.numpy_dtype_promotion("standard"):
        assert predictive(jax.random.key(0), 0.5)["y"].shape == (7, 5)
    assert guide.sample_posterior(jax.random.key(1), sample_shape=(2, 3))["mu"].shape == (2, 3)
    quantiles = guide.quantiles(None, [0.05, 0.5, 0.95])["rho"]
    assert np.all(np.diff(quantiles) > 0.0)


def test_the_guide_makes_hundreds_of_draws_at_once(guide):
    """600 of a pool of 8,192: 22 or so twice. Moments to 4 standard errors and 2%; same by key."""
    n = 600
    predictive = numpyro.infer.Predictive(
        model, guide=guide, params={}, num_samples=n, return_sites=["mu", "y"]
    )
    with jax.numpy_dtype_promotion("standard"):
        draws, again = (predictive(jax.random.key(5), 0.5) for _ in range(2))
    mean, scale = float(Y.sum()) / 5.25, (0.25 / 5.25) ** 0.5
    assert abs(np.mean(draws["mu"]) - mean) < (4.0 / n**0.5 + 0.02) * scale
    assert abs(np.std(draws["mu"]) / scale - 1.0) < 4.0 / (2.0 * n) ** 0.5 + 0.02
    assert n - 50 < len(np.unique(draws["mu"])) < n
    np.testing.assert_array_equal(draws["y"], again["y"])


def test_a_guide_that_is_not_fitted_says_so():
    with pytest.raises(ValueError, match="not fitted yet"):
        avb.posterior.AutoAVB(model).median()


def discrete():
    numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.sample("mu", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("of", "message"),
    [(discrete, "the model's sites k are discrete"), (lambda: None, "has no latent site")],
)
def test_other_models_are_one_sentence(of, message):
    with pytest.raises(ValueError, match=message):
        avb.posterior.fit_numpyro(of)
