"""Latent diagnostics against closed forms: a linear-Gaussian model with one unit unused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avb_jax as avb
from avb_jax.contrast import Contrast
from avb_jax.densities import gaussian_log_prob
from avb_jax.evaluation import (
    EvaluationSettings,
    aggregate_kl,
    describe_posteriors,
    linear_probe_accuracy,
    unit_activities,
)
from avb_jax.evaluation import entries as entries_of
from avb_jax.types import Encoding, Gaussian

N = 2000
SLOPES, SCALES = jnp.array([0.8, 0.3, 0.0]), jnp.array([0.4, 0.7, 1.0])
X = jax.random.normal(jax.random.key(7), (N, 3))


def model() -> avb.Model:
    """q(z|x) = N(slope x, scale²) in each of three dimensions; x ~ N(z, 1)."""

    def encode(params, key, x, num_samples):
        scale_tril = jnp.broadcast_to(jnp.diag(SCALES), (len(x), 3, 3))
        density = Gaussian(x * SLOPES[None], scale_tril)
        noise = jax.random.normal(key, (num_samples, len(x), 3)) * SCALES[None, None]
        return Encoding(density.mean[None] + noise, density=density)

    return avb.Model(
        event_shape=(3,),
        latent_dim=3,
        init=lambda key: None,
        encode=encode,
        decode=lambda theta, z: z,
        log_likelihood=lambda mean, x: gaussian_log_prob((mean, jnp.zeros(3)), x),
        mean=lambda mean: mean,
        log_ratio=None,
        contrast=Contrast("moments"),
    )


PARAMS = avb.Params({}, {}, {})


@pytest.fixture(scope="module")
def found():
    return describe_posteriors(model(), PARAMS, jax.random.key(0), np.asarray(X), batch_size=500)


def test_rate_and_distortion_are_their_closed_forms(found):
    """Each x within 5 standard errors of 64 draws, for the terms are quadratic in the noise."""
    x, slope, scale = (np.asarray(a, np.float64) for a in (X, SLOPES, SCALES))
    rate = np.sum(0.5 * ((slope * x) ** 2 + scale**2 - 1.0) - np.log(scale), axis=1)
    distortion = np.sum(0.5 * (((1.0 - slope) * x) ** 2 + scale**2 + math.log(2 * math.pi)), axis=1)
    for name, truth in (("rate", rate), ("distortion", distortion)):
        error = np.asarray(found[name], np.float64) - truth
        assert abs(error.mean()) < 5.0 * error.std() / N**0.5
        assert error.std() < 5.0 * 2.0 / 64**0.5


def test_an_unused_unit_is_not_active(found):
    """Var E[z] = slope² Var x; the unused one's within 4 errors of zero, σ²/32 √(2/n)."""
    activities = unit_activities(found["means"])
    expected = np.asarray(SLOPES) ** 2 * np.asarray(X).var(axis=0, ddof=1)
    np.testing.assert_allclose(activities[:2], expected[:2], rtol=0.05)
    assert abs(activities[2]) < 4.0 / 32 * (2.0 / N) ** 0.5
    assert np.sum(activities > 0.01) == 2


def test_aggregate_kl_is_its_closed_form(found):
    """q(z) is N(0, slope² + scale²) in each dimension, up to what 2,000 x leave open."""
    ratio = aggregate_kl(
        model(), PARAMS, jax.random.key(1), np.asarray(X), found["draw"], max_steps=500
    )
    variance = np.asarray(SLOPES) ** 2 + np.asarray(SCALES) ** 2
    truth = np.sum(0.5 * (variance - 1.0 - np.log(variance)))
    assert ratio.mean() == pytest.approx(truth, abs=4.0 * ratio.std() / N**0.5 + 0.02)


def test_a_linear_probe_is_right_as_often_as_it_can_be():
    """Two Gaussians 2 apart are told apart with probability Φ(1): within 4 standard errors."""
    labels = np.arange(4000) % 2
    features = np.random.default_rng(0).standard_normal((4000, 1)) + 2.0 * labels[:, None]
    best = 0.5 * (1.0 + math.erf(1.0 / 2**0.5))
    error = (best * (1.0 - best) / 4000) ** 0.5
    assert abs(linear_probe_accuracy(features, labels) - best) < 4.0 * error


def test_the_entries_of_an_evaluation(monkeypatch):
    monkeypatch.setattr(entries_of, "aggregate_kl", lambda *_, **__: np.full(200, 0.1))
    settings = EvaluationSettings(methods=("latent",), fit_steps=500)
    labels = np.asarray(X[:200, 0] > 0.0, np.int32)
    entries = avb.evaluation.evaluate(
        model(), PARAMS, np.asarray(X[:200]), settings=settings, labels=labels, progress=False
    )
    values = {entry["name"]: entry["value"] for entry in entries}
    assert list(values) == [
        "rate", "distortion", "active_units", "aggregate_kl", "mutual_information",
        "probe_accuracy",
    ]  # fmt: skip
    assert all(entry["kind"] == "estimate" for entry in entries)
    assert values["active_units"] == 2.0 and values["probe_accuracy"] > 0.9
    gain = values["rate"] - values["aggregate_kl"]
    assert values["mutual_information"] == pytest.approx(gain, abs=1e-6)


def test_a_probe_needs_two_classes_of_as_many_as_there_are_folds():
    """A rare class beside them does no harm."""
    one, rare, two = np.zeros(20, int), np.arange(20) // 19, np.arange(20) // 5
    three = np.array([0] * 10 + [1] * 9 + [2])
    for labels, probed in (
        (np.arange(20) // 4, False), (one, False), (rare, False), (two, True), (three, True),
    ):  # fmt: skip
        entries = avb.evaluation.evaluate(
            model(), PARAMS, np.asarray(X[:20]), labels=labels, progress=False,
            settings=EvaluationSettings(methods=("latent",), fit_steps=0),
        )  # fmt: skip
        found = [entry["value"] for entry in entries if entry["name"] == "probe_accuracy"]
        assert len(found) == probed and np.all(np.isfinite(found))
    with pytest.raises(ValueError, match=r"labels had classes of \[19, 1\] members"):
        linear_probe_accuracy(np.zeros((20, 2)), rare)


def test_draws_of_one_x_are_not_counted_as_many(monkeypatch):
    """The standard error of KL(q(z)‖p(z)) is over the x, of which each has 500 draws here."""
    monkeypatch.setattr(
        entries_of, "aggregate_kl", lambda model, params, key, x, draws, **_: np.arange(2000) % 4
    )
    settings = EvaluationSettings(methods=("latent",), fit_steps=2)
    entries = avb.evaluation.evaluate(
        model(), PARAMS, np.asarray(X[:4]), settings=settings, progress=False
    )
    (entry,) = (e for e in entries if e["name"] == "aggregate_kl")
    assert entry["n"] == 4 and entry["value"] == 1.5
    assert entry["stderr"] == pytest.approx(np.std([0, 1, 2, 3], ddof=1) / 2.0)
