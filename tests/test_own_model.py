"""A model made by hand of plain functions, with any optax transformation, against its truth."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import avb_jax as avb
from avb_jax.contrast import Contrast
from avb_jax.densities import gaussian_log_prob, log_prior
from avb_jax.model import Model

NOISE = 0.5  # standard deviation of x given z, in the model below


def linear_gaussian(contrast: str) -> Model:
    """p(x|z) = N(w z, NOISE²), q(z|x) = a x + b ε: plain functions, and its truth is known."""

    def init(key):
        del key
        encoder = {"a": jnp.float32(-0.1), "b": jnp.float32(1.5)}
        return avb.Params(encoder, {"w": jnp.float32(0.3)}, {"c": jnp.zeros((3, 3))})

    def encode(params, key, x, num_samples):
        phi = params.encoder
        noise = jax.random.normal(key, (num_samples, x.shape[0], 1))
        return avb.Encoding(phi["a"] * x[None] + phi["b"] * noise)

    def log_ratio(params, view, z):
        x = view.context
        of_x = jnp.concatenate([jnp.ones_like(x), x, jnp.square(x)], -1)
        of_z = jnp.concatenate([jnp.ones_like(z), z, jnp.square(z)], -1)
        return jnp.einsum("bi,ij,sbj->sb", of_x, params.critic["c"], of_z)

    return Model(
        event_shape=(1,),
        latent_dim=1,
        init=init,
        encode=encode,
        decode=lambda theta, z: theta["w"] * z,
        log_likelihood=lambda mean, x: gaussian_log_prob((mean, jnp.log(jnp.full(1, NOISE))), x),
        mean=lambda mean: mean,
        log_ratio=log_ratio,
        contrast=Contrast(contrast),
    )


def exact_kl(params: avb.Params, x: np.ndarray) -> float:
    """KL(q‖p) of the model above in closed form, nats."""
    a, b = float(params.encoder["a"]), float(params.encoder["b"])
    return float(np.mean(0.5 * ((a * x) ** 2 + b**2 - 1.0) - np.log(abs(b))))


def exact_elbo(params: avb.Params, x: np.ndarray) -> float:
    """E_q[log p(x|z)] − KL(q‖p) of the model above in closed form, nats."""
    a, b, w = (float(v) for v in (*params.encoder.values(), *params.decoder.values()))
    residual = (x - w * a * x) ** 2 + (w * b) ** 2
    reconstruction = -0.5 * (residual / NOISE**2 + np.log(2.0 * np.pi * NOISE**2))
    return float(np.mean(reconstruction)) - exact_kl(params, x)


@pytest.mark.parametrize("contrast", ["moments", pytest.param("prior", marks=pytest.mark.slow)])
def test_a_model_made_by_hand_trains_with_any_optax_transformation(contrast):
    """No Flax, no image: x ~ N(0, 1.25), so that w = ±1, and then q can be the true posterior.

    With the prior for contrast it is the critic alone that knows the scale of q.
    """
    x = np.random.default_rng(5).normal(scale=1.25**0.5, size=(512, 1)).astype(np.float32)
    model = linear_gaussian(contrast)
    config = avb.Config(latent_dim=1, num_samples=16, contrast=contrast, critic_steps=5)
    schedule = optax.cosine_decay_schedule(0.03, 400)
    optimizers = avb.Optimizers(
        vae=optax.chain(optax.clip(1.0), optax.adabelief(schedule)),
        critic=optax.adam(0.05),
    )
    state = avb.init_state(model, optimizers, jax.random.key(0))
    before = exact_elbo(state.params, x)
    step = jax.jit(avb.fuse_steps(avb.make_train_step(model, optimizers, config)))
    state, metrics = step(state, np.broadcast_to(x, (400, *x.shape)))

    params, variance = state.params, np.mean(x**2)
    best = np.mean(scipy.stats.norm.logpdf(x, scale=variance**0.5))
    after = exact_elbo(params, x)
    assert before < best - 1.0
    assert best - 0.01 < after < best + 1e-6
    w = float(params.decoder["w"])
    np.testing.assert_allclose(w**2 + NOISE**2, variance, rtol=0.05)
    # The true posterior has mean x w/(w² + NOISE²) and variance NOISE²/(w² + NOISE²).
    np.testing.assert_allclose(params.encoder["a"], w / (w**2 + NOISE**2), rtol=0.05)
    np.testing.assert_allclose(params.encoder["b"] ** 2, NOISE**2 / (w**2 + NOISE**2), rtol=0.1)
    # What the critic adds: KL(q‖p), or nothing where q has the shape of its contrast.
    expected = 0.0 if contrast == "moments" else exact_kl(params, x)
    assert np.mean(metrics["log_ratio"][-50:]) == pytest.approx(expected, abs=0.02)
    assert np.mean(metrics["elbo_estimate"][-50:]) == pytest.approx(after, abs=0.02)


@pytest.mark.parametrize("covariance, dim, least", [("full", 4, 6), ("diagonal", 4, 3)])
def test_too_few_draws_for_their_own_moments_are_one_sentence(covariance, dim, least):
    """The config of its default encoder has S = 4, which knows moments without any draws."""

    def encode(params, key, x, num_samples):
        return avb.Encoding(jax.random.normal(key, (num_samples, x.shape[0], dim)))

    def first_step(**samples):
        model = linear_gaussian("moments")._replace(
            latent_dim=dim, encode=encode, contrast=Contrast("moments", covariance),
            decode=lambda theta, z: theta["w"] * z[..., :1],
            log_ratio=lambda params, view, z: jnp.sum(params.critic["c"]) * z[..., 0],
        )  # fmt: skip
        config = avb.Config(latent_dim=dim, **samples)
        optimizers = avb.build_optimizers(config)
        state = avb.init_state(model, optimizers, jax.random.key(0))
        step = jax.jit(avb.make_train_step(model, optimizers, config))
        return step(state, jnp.ones((2, 1)))[1]["critic_loss"]

    few = {} if least > 4 else {"num_samples": 2, "decoder_samples": 2}
    message = f"num_samples was {few.get('num_samples', 4)}; allowed is {least} or more"
    with pytest.raises(ValueError, match=message):
        first_step(**few)
    assert np.isfinite(first_step(num_samples=least))


def test_the_hand_made_model_has_the_methods_of_any_other():
    model = linear_gaussian("moments")
    params = model.init(jax.random.key(0))
    x, z = jnp.array([[1.0], [-0.5]]), jnp.array([[[0.2], [0.4]], [[-1.0], [2.0]], [[0.0], [0.5]]])
    expected = scipy.stats.norm.logpdf(x, 0.3 * np.asarray(z), NOISE).sum(-1) + np.asarray(
        log_prior(z)
    )
    np.testing.assert_allclose(jax.jit(model.log_joint)(params, x, z), expected, rtol=1e-5)
    np.testing.assert_allclose(model.decode_mean(params, z), 0.3 * np.asarray(z), rtol=1e-6)
    # q is a Gaussian and the critic zero: log q̂ differs from log q by the moments' noise alone.
    log_q = scipy.stats.norm.logpdf(z, -0.1 * np.asarray(x), 1.5).sum(-1)
    estimate = jax.jit(model.log_posterior_estimate)(params, jax.random.key(1), x, z)
    # Of 256 draws the mean has a standard error of 1/16 scales, ½ log|Ĉ| one of 0.044: four each.
    np.testing.assert_allclose(estimate, log_q, atol=4 * (2.0 / 16 + 0.044))
