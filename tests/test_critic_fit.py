"""Fitted critics against samplers whose density is known; tolerances are of the fit, not of draws.

The whole table is experiments/critic_accuracy.py's; here are the cases that a minute allows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import avb_jax as avb
from avb_jax import gaussian_mixture
from avb_jax.critic_fit import _mean
from avb_jax.densities import LOG_2PI, log_prior
from avb_jax.reference import Draws, build_references, source

DRAWS = 4000
KEY = jax.random.key(11)


def normal(key, n):
    """N((1, −1), diag(1, 4))."""
    return jax.random.normal(key, (n, 2)) * jnp.array([[1.0, 2.0]]) + jnp.array([[1.0, -1.0]])


def normal_log_density(z):
    return log_prior((z - jnp.array([[1.0, -1.0]])) / jnp.array([[1.0, 2.0]])) - jnp.log(2.0)


def two_modes(key, n):
    """½ N(−2, ½²) + ½ N(2, ½²)."""
    key_sign, key_noise = jax.random.split(key)
    sign = jnp.where(jax.random.bernoulli(key_sign, 0.5, (n, 1)), 2.0, -2.0)
    return sign + 0.5 * jax.random.normal(key_noise, (n, 1))


def two_modes_log_density(z):
    modes = -2.0 * jnp.square(z - jnp.array([[-2.0, 2.0]])) - 0.5 * LOG_2PI
    return jax.scipy.special.logsumexp(modes, axis=-1)  # log(½/½) = 0


def errors(fit, z, truth) -> tuple[float, float]:
    """Bias and RMSE of log q̂ over fresh draws, nats."""
    error = np.asarray(fit.log_density(z) - truth, np.float64)
    return float(error.mean()), float(np.sqrt(np.square(error).mean()))


@pytest.mark.parametrize("loss", ["logistic", pytest.param("exp", marks=pytest.mark.slow)])
def test_the_critic_learns_what_the_contrast_lacks(loss):
    """Two modes against a Gaussian of their moments: KL(q‖r) is 0.68 nats, and all is s's."""
    fit = avb.fit_critic(
        KEY, two_modes, 1, contrast="moments", loss=loss, batch_size=512, max_steps=2000, width=32
    )
    z = two_modes(jax.random.key(1), DRAWS)
    truth = two_modes_log_density(z)
    bias, rmse = errors(fit, z, truth)
    assert abs(bias) < 0.03 and rmse < 0.15
    moments = -0.5 * jnp.square(z[:, 0]) / 4.25 - 0.5 * (LOG_2PI + jnp.log(4.25))
    kl = float(jnp.mean(truth - moments))
    found = fit.calibration
    assert found.kl == pytest.approx(kl, abs=0.03 + 4.0 * found.kl_stderr)
    assert found.kl_lower_bound < kl + 4.0 * found.kl_stderr
    assert found.reference_mean_ratio == pytest.approx(1.0, abs=0.05)
    assert found.balance == pytest.approx(0.0, abs=0.02)
    assert found.steps[0] == 0 < found.steps[1] <= 2000
    np.testing.assert_allclose(fit.log_ratio(z), fit.log_density(z) - moments, atol=0.1)


@pytest.mark.slow
def test_the_flow_leaves_the_critic_little_to_do():
    options = {"contrast": "flow", "batch_size": 512, "max_steps": 2000, "width": 32, "depth": 1}
    fit = avb.fit_critic(KEY, two_modes, 1, **options)
    z = two_modes(jax.random.key(1), DRAWS)
    bias, rmse = errors(fit, z, two_modes_log_density(z))
    assert abs(bias) < 0.01 and rmse < 0.1
    assert abs(fit.calibration.kl) < 0.01
    assert fit.calibration.held_out_loss == pytest.approx(2.0 * np.log(2.0), abs=0.01)


def test_a_mixture_needs_no_critic_at_all():
    """Two components are all that two modes are, by 65,536 draws of them and more."""
    options = {"batch_size": 512, "max_steps": 500, "width": 32, "depth": 1}
    fit = avb.fit_critic(KEY, two_modes, 1, contrast="mixture", **options)
    z = two_modes(jax.random.key(1), DRAWS)
    bias, rmse = errors(fit, z, two_modes_log_density(z))
    assert abs(bias) < 0.01 and rmse < 0.03
    assert fit.calibration.reference_mean_ratio == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(fit.log_ratio(z), 0.0)  # it gained nothing, and was let go
    assert fit.calibration.kl == fit.calibration.kl_stderr == fit.calibration.kl_lower_bound == 0.0
    assert fit.calibration.held_out_loss == pytest.approx(2.0 * np.log(2.0))
    assert fit.calibration.steps == (0, 500)


@pytest.mark.parametrize(
    "most, best", [(2, "mixture"), pytest.param(1, "flow", marks=pytest.mark.slow)]
)
def test_the_best_contrast_is_the_likelier(most, best, monkeypatch):
    """Of two modes that is a mixture, but for one of a single component."""
    monkeypatch.setattr(gaussian_mixture, "MOST", most)
    options = {"batch_size": 512, "max_steps": 750, "width": 8, "depth": 1}
    z = two_modes(jax.random.key(1), 10)
    fits = [avb.fit_critic(KEY, two_modes, 1, contrast=name, **options) for name in ("best", best)]
    log_r = [fit.log_density(z) - fit.log_ratio(z) for fit in fits]
    np.testing.assert_allclose(*log_r, atol=1e-4)
    assert fits[0].calibration.steps == (0 if best == "mixture" else 500, 250)


@pytest.mark.slow
def test_a_gaussian_of_known_moments_needs_no_critic_at_all():
    """And against the prior the critic finds KL(N((1, −1), diag(1, 4))‖N(0, I)) = 1.81 nats."""
    z = normal(jax.random.key(2), DRAWS)
    truth = normal_log_density(z)
    options = {"batch_size": 512, "max_steps": 1000, "width": 32}
    _, rmse = errors(avb.fit_critic(KEY, normal, 2, contrast="moments", **options), z, truth)
    assert rmse < 0.05
    fit = avb.fit_critic(KEY, normal, 2, contrast="prior", **options)
    kl = 0.5 * (1.0 + 4.0 - 2.0 + 2.0) - np.log(2.0)
    assert fit.calibration.kl == pytest.approx(kl, abs=0.1 + 4.0 * fit.calibration.kl_stderr)


def conditional(key, x):
    """z|x = (sin 2x₁, x₂) + exp(x₁) ε, of dependent coordinates."""
    noise = jax.random.normal(key, (len(x), 2))
    noise = noise.at[:, 1].add(noise[:, 0])
    location = jnp.stack([jnp.sin(2.0 * x[:, 0]), x[:, 1]], axis=-1)
    return location + jnp.exp(x[:, :1]) * noise


def conditional_log_density(x, z):
    location = jnp.stack([jnp.sin(2.0 * x[:, 0]), x[:, 1]], axis=-1)
    noise = (z - location) * jnp.exp(-x[:, :1])
    return log_prior(noise.at[:, 1].add(-noise[:, 0])) - 2.0 * x[:, 0]


@pytest.mark.slow
def test_a_conditional_density():
    x = 0.5 * jax.random.normal(jax.random.key(3), (DRAWS, 2))
    options = {"contrast": "learned", "batch_size": 512, "max_steps": 2500, "width": 32, "depth": 1}
    fit = avb.fit_critic(KEY, conditional, 2, x=x, **options)
    z = conditional(jax.random.key(4), x)
    error = np.asarray(fit.log_density(x, z) - conditional_log_density(x, z))
    assert abs(error.mean()) < 0.03 and np.sqrt(np.square(error).mean()) < 0.15


@pytest.mark.slow
def test_the_context_is_what_the_critic_sees_of_x():
    """Without x₁, the scale of z, a fit says the same at any x₁."""
    x = 0.5 * jax.random.normal(jax.random.key(3), (64, 2))
    options = {"contrast": "learned", "batch_size": 64, "max_steps": 500, "width": 8, "depth": 1}
    fit = avb.fit_critic(KEY, conditional, 2, x=x, context=lambda x: x[:, 1:], **options)
    z, moved = conditional(jax.random.key(4), x), x + jnp.array([[1.0, 0.0]])
    np.testing.assert_array_equal(fit.log_density(x, z), fit.log_density(moved, z))
    assert np.all(fit.log_density(x, z) != fit.log_density(x + 1.0, z))


@pytest.mark.filterwarnings("ignore:critic_loss 'exp_as_written'")
def test_as_written_the_critic_is_blind():
    """Its optimum is T = log q̂ − 1 = 0 at every z, whatever q is."""
    fit = avb.fit_critic(
        KEY, two_modes, 1, contrast="moments", loss="exp_as_written",
        batch_size=256, max_steps=2000, width=32,
    )  # fmt: skip
    critic = np.asarray(fit.log_density(two_modes(jax.random.key(1), DRAWS))) - 1.0
    assert np.sqrt(np.square(critic).mean()) < 0.02


def test_the_same_key_gives_the_same_fit():
    options = {"contrast": "moments", "batch_size": 64, "max_steps": 500, "width": 8}
    fits = [avb.fit_critic(KEY, two_modes, 1, **options) for _ in range(2)]
    z = two_modes(jax.random.key(1), 10)
    np.testing.assert_array_equal(*(fit.log_density(z) for fit in fits))
    assert fits[0].calibration == fits[1].calibration


def test_no_more_steps_are_taken_than_allowed():
    """Two thirds for the contrast, of which a learned one has some, in rounds that may be short.

    x may be NumPy's.
    """
    x = np.random.default_rng(0).normal(size=(64, 1))
    draw = lambda key, x: x + jax.random.normal(key, x.shape)  # noqa: E731
    options = {"contrast": "learned", "batch_size": 64, "width": 8, "depth": 1}
    fit = avb.fit_critic(KEY, draw, 1, x=x, max_steps=375, **options)
    assert fit.calibration.steps == (250, 125)
    assert np.isfinite(fit.log_density(x, np.zeros((64, 1)))).all()
    assert np.isfinite(fit.calibration.kl_stderr)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"contrast": "nosuch"}, "contrast was 'nosuch'; allowed without x are prior, moments"),
        ({"contrast": "learned"}, "contrast was 'learned'; allowed without x"),
        ({"contrast": "moments", "x": np.zeros((9, 1))}, "contrast was 'moments'; allowed with x"),
        ({"loss": "nosuch"}, "loss was 'nosuch'; allowed are logistic"),
        ({"max_steps": 1}, "max_steps was 1; allowed is 2 or more"),
        ({"batch_size": 7}, "batch_size was 7; allowed is 8 or more"),
        ({"dim": 2}, r"sample returned an array of shape \(1024, 1\); allowed is \(1024, 2\)"),
    ],
)
def test_bad_input_is_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        avb.fit_critic(KEY, two_modes, **{"dim": 1, **options})


@pytest.mark.parametrize("contrast", ["moments", "prior"])
@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0, 7.0])
def test_draws_on_a_line_are_refused(slope, contrast):
    """Where slopes are no powers of two, float32 leaves some 1e-7 of the second variance."""

    def line(key, n):
        z = jax.random.normal(key, (n, 1))
        return jnp.concatenate([z, slope * z], axis=1)

    with pytest.raises(FloatingPointError, match="lie in less than dim dimensions"):
        avb.fit_critic(KEY, line, 2, contrast=contrast, max_steps=500)


@pytest.mark.parametrize("correlation", [0.999, -0.99999])
def test_draws_near_a_line_are_not(correlation):
    """The density at draws is that of a Gaussian whose moments are those of 65,536 draws."""

    def near(key, n):
        z = jax.random.normal(key, (n, 2))
        rest = (1.0 - correlation**2) ** 0.5
        return jnp.stack([z[:, 0], correlation * z[:, 0] + rest * z[:, 1]], axis=1)

    z = near(jax.random.key(1), DRAWS)
    draw = source(near, None, None, 512)
    (reference,) = build_references("moments", 2, draw, draw, {"pool": KEY}, given_x=False)
    found = reference.coordinates({}, Draws(None, z[:, None]))[1]
    covariance = [[1.0, correlation], [correlation, 1.0]]
    truth = scipy.stats.multivariate_normal(cov=covariance).logpdf(np.asarray(z, np.float64))
    assert abs(np.mean(found) - np.mean(truth)) < 0.02


@pytest.mark.parametrize("n", [1, 20, 180, 300])
def test_each_x_is_drawn_as_often(n):
    """In 4,000 batches, to 5 standard errors of a Poisson count; of a few, once in every batch."""
    draw = source(lambda key, x: x, jnp.zeros((n, 1)), lambda x: x, 1024)
    rows = np.asarray(jax.vmap(lambda key: draw(key).rows)(jax.random.split(KEY, 4000)))
    expected = 4000 * min(1.0, 128 / n)
    error = 0.0 if n <= 128 else expected**0.5
    found = np.bincount(rows.ravel(), minlength=n)
    assert rows.shape == (4000, min(n, 128))
    assert np.all(np.abs(found - expected) <= 5.0 * error)


@pytest.mark.parametrize("n", [1, 20, 300])
def test_standard_errors_count_each_x_once(n):
    """z|x = x + ε/2, batch after batch of n x, of which 128 at most fit in one.

    Over 400 data sets the mean squared ratio of error to standard error is that of a Student t
    of n − 1 degrees, to 4 standard errors of 0.087 (for n = 20). Of one x, z − x is looked at.
    """

    def sample(key, x):
        return x + 0.5 * jax.random.normal(key, x.shape)

    def of_data_set(key):
        key_x, key_z = jax.random.split(key)
        x = jax.random.normal(key_x, (n, 1))
        draws = jax.lax.map(source(sample, x, lambda x: x, 1024), jax.random.split(key_z, 16))
        return draws.z[..., 0] - (x[0, 0] if n == 1 else 0.0), draws.rows

    values, rows = jax.jit(lambda keys: jax.lax.map(of_data_set, keys))(jax.random.split(KEY, 400))
    values, rows = np.asarray(values, np.float64), np.asarray(rows)
    means, errors = np.transpose([_mean(v, r) for v, r in zip(values, rows, strict=True)])
    expected = 1.0 if n == 1 else (n - 1.0) / (n - 3.0)
    assert np.mean(np.square(means / errors)) == pytest.approx(expected, abs=4.0 * 0.087)
