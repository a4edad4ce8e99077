"""The entries of evaluation.json against a model whose every number is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import avb_jax as avb
from avb_jax.contrast import Contrast
from avb_jax.densities import gaussian_log_prob
from avb_jax.evaluation import AISSettings, EvaluationSettings
from avb_jax.types import Encoding, Gaussian, Kernel

WEIGHT, NOISE = 1.3, 0.6
X = np.linspace(-2.0, 2.5, 7, dtype=np.float32)[:, None]
EXACT = stats.norm.logpdf(X[:, 0], 0.0, np.hypot(WEIGHT, NOISE))
VARIANCE = 1.0 / (1.0 + WEIGHT**2 / NOISE**2)  # of p(z|x), whose mean is SLOPE x
SLOPE = VARIANCE * WEIGHT / NOISE**2


def model() -> avb.Model:
    """x|z ~ N(WEIGHT z, NOISE²); q(z|x) = N(a x, b²), explicit."""

    def encode(params, key, x, num_samples):
        phi = params.encoder
        density = Gaussian(phi["a"] * x, jnp.broadcast_to(phi["b"], (x.shape[0], 1, 1)))
        noise = jax.random.normal(key, (num_samples, x.shape[0], 1))
        return Encoding(density.mean[None] + phi["b"] * noise, density=density)

    return avb.Model(
        event_shape=(1,),
        latent_dim=1,
        init=lambda key: None,
        encode=encode,
        decode=lambda theta, z: WEIGHT * z,
        log_likelihood=lambda mean, x: gaussian_log_prob((mean, jnp.log(jnp.full(1, NOISE))), x),
        mean=lambda mean: mean,
        log_ratio=None,
        contrast=Contrast("moments"),
    )


def evaluate(a, b, batch_size):
    params = avb.Params({"a": jnp.float32(a), "b": jnp.float32(b)}, {}, {})
    entries = avb.evaluation.evaluate(
        model(), params, X, progress=False,
        settings=EvaluationSettings(num_samples=2000, batch_size=batch_size),
    )  # fmt: skip
    return {(entry["name"], entry["kind"]): entry for entry in entries}


@pytest.mark.parametrize("batch_size", [3, 100])
def test_with_the_exact_posterior_all_numbers_are_log_p(batch_size):
    """Also over a ragged last batch; the importance weights vary by the proposal's tails alone."""
    entries = evaluate(SLOPE, VARIANCE**0.5, batch_size)
    assert list(entries) == [
        ("log_likelihood", "lower bound"),
        ("log_likelihood", "exact"),
        ("elbo", "lower bound"),
    ]
    assert all(entry["n"] == len(X) for entry in entries.values())
    assert entries["elbo", "lower bound"]["value"] == pytest.approx(EXACT.mean(), abs=1e-5)
    assert entries["log_likelihood", "exact"]["value"] == pytest.approx(EXACT.mean(), abs=1e-4)
    bound = entries["log_likelihood", "lower bound"]
    # 5 standard errors of each x's estimate, from its effective sample size, over 7 of them.
    tolerance = 5 * (1 / bound["effective_sample_size"] - 1 / 2000) ** 0.5 / len(X) ** 0.5
    assert bound["value"] == pytest.approx(EXACT.mean(), abs=tolerance)
    spread = EXACT.std(ddof=1) / len(X) ** 0.5
    assert entries["elbo", "lower bound"]["stderr"] == pytest.approx(spread, rel=1e-4)


def test_elbo_falls_short_by_the_kl_divergence():
    """log p(x) − KL(q(z|x)‖p(z|x)) in closed form, for a q that is shifted and too narrow."""
    a, b = 0.8 * SLOPE, 0.7 * VARIANCE**0.5
    key = jax.random.key(0)
    params = avb.Params({"a": jnp.float32(a), "b": jnp.float32(b)}, {}, {})
    draws = 20_000
    value = avb.evaluation.elbo_estimate(model(), params, key, jnp.asarray(X), num_samples=draws)
    shift = (a - SLOPE) * X[:, 0]
    kl = 0.5 * ((b**2 + shift**2) / VARIANCE - 1.0 + np.log(VARIANCE / b**2))
    # log p(x, z) − log q is quadratic in the noise: its variance is that of c ε + d ε².
    c, d = b * shift / VARIANCE, 0.5 * (1.0 - b**2 / VARIANCE)
    stderr = np.sqrt((c**2 + 2 * d**2) / draws)
    assert np.all(np.abs(value - (EXACT - kl)) < 5 * stderr + 1e-5)


@pytest.mark.slow
def test_an_implicit_posterior_has_an_estimate_and_a_bracket(monkeypatch):
    """q(z|x) = N(a x, b²) again, now seen through its draws and its kernel alone."""
    monkeypatch.setattr("avb_jax.evaluation.elbo.KERNELS", 2**12)
    a, b, blur = 0.8 * SLOPE, 0.7 * VARIANCE**0.5, 0.5

    def encode(params, key, x, num_samples):
        keys = jax.random.split(key)
        noise = [jax.random.normal(k, (num_samples, x.shape[0], 1)) for k in keys]
        mean = (
            params.encoder["a"] * x[None] + (1.0 - blur**2) ** 0.5 * params.encoder["b"] * noise[0]
        )
        scale = jnp.broadcast_to(blur * params.encoder["b"], (1, x.shape[0], 1, 1))
        return Encoding(mean + scale[..., 0] * noise[1], kernel=Kernel(mean, scale))

    implicit = model()._replace(
        encode=encode, log_ratio=lambda params, view, z: jnp.zeros(z.shape[:2])
    )
    params = avb.Params({"a": jnp.float32(a), "b": jnp.float32(b)}, {}, {})
    entries = avb.evaluation.evaluate(
        implicit, params, X, settings=EvaluationSettings(fit_steps=500), progress=False
    )
    elbo = {e["kind"]: e["value"] for e in entries if e["name"] == "elbo"}
    kl = {e["kind"]: e["value"] for e in entries if e["name"] == "kl_to_prior"}
    shift = (a - SLOPE) * X[:, 0]
    gap = 0.5 * ((b**2 + shift**2) / VARIANCE - 1.0 + np.log(VARIANCE / b**2))
    truth = np.mean(EXACT - gap)
    kl_truth = np.mean(0.5 * (b**2 + (a * X[:, 0]) ** 2 - 1.0) - np.log(b))
    # 512 draws of each x at least; log p(x, z) − log q and log q − log p(z) spread by less than 1.
    tolerance = 4.0 / (7 * 512) ** 0.5
    assert elbo.keys() == {"estimate", "lower bound", "upper bound"}
    assert elbo["estimate"] == pytest.approx(truth, abs=tolerance)
    assert truth - tolerance < elbo["lower bound"] < elbo["upper bound"] < truth + tolerance
    assert kl_truth - tolerance < kl["lower bound"] < kl["upper bound"] < kl_truth + tolerance
    # Each pair adds up to E_q[log p(x|z)], and that to the same number: of the same draws.
    values = {(e["name"], e["kind"], e["method"]): e["value"] for e in entries if "method" in e}
    fitted, semi_implicit = (
        values["elbo", kind, method] + values["kl_to_prior", other, method]
        for kind, other, method in (
            ("upper bound", "lower bound", "fitted critic"),
            ("lower bound", "upper bound", "semi-implicit"),
        )
    )
    assert fitted == pytest.approx(semi_implicit, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("magic",)}, "methods had magic; allowed are importance"),
        ({"num_samples": 0}, "num_samples was 0; allowed is 1 or more"),
        ({"iwae_samples": (50, 0)}, "iwae_samples was 0; allowed is 1 or more"),
        ({"ais_images": -1}, "ais_images was -1; allowed is 0 or more"),
        ({"simulated_images": -1}, "simulated_images was -1; allowed is 0 or more"),
        ({"batch_size": 0}, "batch_size was 0; allowed is 1 or more"),
        ({"fit_steps": 1}, "fit_steps was 1; allowed is 0, or 2 or more"),
        ({"fit_steps": -1}, "fit_steps was -1; allowed is 0, or 2 or more"),
        ({"ais": AISSettings(num_temperatures=1)}, "num_temperatures was 1; allowed is 2 or more"),
    ],
)
def test_wrong_settings_are_one_sentence_before_any_work(change, message):
    with pytest.raises(ValueError, match=message):
        EvaluationSettings(**change)


def test_no_images_are_one_sentence():
    with pytest.raises(ValueError, match="images was 0; allowed is 1 or more"):
        avb.evaluation.evaluate(
            model(), None, X[:0], settings=EvaluationSettings(methods=("elbo",))
        )
