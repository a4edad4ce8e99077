"""The fused step against two losses written and differentiated separately."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import avb_jax as avb
from avb_jax import contrast as contrasts
from avb_jax.densities import log_prior
from avb_jax.optimizers import Optimizers
from avb_jax.types import View

SHAPE = (2, 2, 1)
LOSSES = ("logistic", "exp", "exp_as_written")
CONTRASTS = ("prior", "moments-full", "moments-diagonal", "learned")
LOGISTIC = ("logistic", "noise-mlp", "residual")
COMBINATIONS = [
    *((*pair, "noise-mlp", "residual") for pair in itertools.product(LOSSES, CONTRASTS)),
    *(("logistic", contrast, "basis", "residual") for contrast in CONTRASTS),
    *(("logistic", contrast, "noise-mlp", "informed") for contrast in ("prior", "moments-full")),
]


def is_fast(loss, contrast, encoder, critic) -> bool:
    """Each loss, contrast, encoder and critic once; the other combinations take minutes."""
    return contrast == "moments-full" or (loss, encoder, critic) == LOGISTIC


SMALL = {
    "latent_dim": 2,
    "width": 8,
    "depth": 1,
    "refinements": 1,
    "survey": 2,
    "head_width": 8,
    "head_depth": 1,
    "num_bases": 3,
    "critic_width": 8,
    "critic_depth": 1,
    "critic_trunk_width": 8,
    "critic_trunk_depth": 1,
    "batch_size": 4,
    "binarization": "none",
}


def build(**options):
    config = avb.Config(**{**SMALL, **options})
    return config, avb.build_model(config, SHAPE)


def gradients_of_step(model, config, params, key, x):
    """The gradients that the step hands to two optimisers that do nothing but keep them."""
    keep = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradient, state, params=None: (jax.tree.map(jnp.zeros_like, gradient), gradient),
    )
    optimizers = Optimizers(keep, keep)
    step = avb.make_train_step(model, optimizers, config)
    vae = (params.encoder, params.decoder)
    opt_state = (keep.init(vae), keep.init(params.critic))
    state = avb.TrainState(jnp.zeros([], jnp.int32), key, params, opt_state)
    state, metrics = jax.jit(step)(state, x)
    return state.opt_state, metrics


def separate_losses(model, config, key, x):
    """−ELBO(φ, θ) and critic loss(ψ), each written on its own from the design's formulas."""
    key = jax.random.fold_in(key, 0)
    _, key_q, key_r, _ = jax.random.split(key, 4)
    as_written = config.critic_loss == "exp_as_written"
    analytic = config.contrast_name == "moments" and not as_written
    dim, seen = config.latent_dim, config.critic_samples

    def draw(phi, theta, psi):
        held = jax.lax.stop_gradient(theta)  # the encoder consults the decoder as it is
        encoding = model.encode(avb.Params(phi, held, psi), key_q, x, config.samples)
        r = model.contrast.reference(psi, x, encoding)
        if as_written:
            r = jax.lax.stop_gradient(r)
        scale = contrasts.log_scale(r, encoding.z) - model.contrast.log_scale_bias(encoding)
        return encoding, r, contrasts.whiten(encoding.z, r), scale

    def log_r(z_tilde, scale):
        return log_prior(z_tilde) - scale[None]

    def vae_loss(vae, psi):
        phi, theta = vae
        encoding, r, z_tilde, scale = draw(phi, theta, psi)
        view = jax.lax.stop_gradient(View(x, encoding.features, r))
        s = model.log_ratio(avb.Params(phi, theta, psi), view, z_tilde[:seen])
        if analytic:
            entropy = jnp.mean(scale) + 0.5 * dim * (1.0 + jnp.log(2.0 * jnp.pi))
        else:
            entropy = -jnp.mean(log_r(z_tilde, scale))
        z = encoding.z[: config.decoded]
        if encoding.mirror is not None and config.decoded > 1:
            half = config.decoded // 2
            z = jnp.concatenate([z[: len(z) - half], encoding.mirror[:half]])
        reconstruction = jnp.mean(model.log_likelihood(model.decode(theta, z), x))
        log_p = jnp.mean(log_prior(encoding.z))
        if analytic and encoding.moments is not None:
            m, c = encoding.moments[:2]
            squares = jnp.mean(jnp.sum(m**2, -1) + jnp.trace(c, axis1=1, axis2=2))
            log_p = -0.5 * (squares + dim * jnp.log(2.0 * jnp.pi))
        return -(reconstruction + log_p + entropy - jnp.mean(s))

    def critic_loss(psi, phi, theta):
        encoding, r, z_tilde, scale = jax.lax.stop_gradient(draw(phi, theta, psi))
        own = model.contrast.whitens_draws(encoding)
        z_r = contrasts.sample_reference(key_r, encoding.z, own, config.covariance)
        params = avb.Params(phi, theta, psi)
        view = View(x, encoding.features, jax.lax.stop_gradient(r))
        s_q, s_r = (model.log_ratio(params, view, z[:seen]) for z in (z_tilde, z_r))
        if config.critic_loss == "logistic":
            loss = jnp.mean(jnp.logaddexp(0.0, -s_q)) + jnp.mean(jnp.logaddexp(0.0, s_r))
        elif config.critic_loss == "exp":
            loss = jnp.mean(jnp.exp(s_r)) - jnp.mean(s_q)
        else:
            critic = s_q + log_r(z_tilde, scale)[:seen] - 1.0
            loss = jnp.mean(jnp.exp(critic) - critic)
        if config.contrast_name == "learned":
            r = model.contrast.network(psi, x)
            loss = loss - jnp.mean(contrasts.log_density(encoding.z, r))
        return loss

    return vae_loss, critic_loss


@pytest.mark.filterwarnings("ignore:critic_loss 'exp_as_written'")
@pytest.mark.parametrize(
    "loss,contrast,encoder,critic",
    [pytest.param(*c, marks=() if is_fast(*c) else pytest.mark.slow) for c in COMBINATIONS],
)
def test_fused_gradients_equal_two_separate_ones(loss, contrast, encoder, critic):
    """float64, relative 1e-6 of each leaf's norm, for every critic loss × contrast."""
    with jax.enable_x64(True):
        name, _, covariance = contrast.partition("-")
        config, model = build(
            contrast=name,
            covariance=covariance or "full",
            critic_loss=loss,
            encoder=encoder,
            critic=critic,
            critic_samples=3 if (critic, name) == ("informed", "moments") else None,
            decoder_samples=3 if encoder == "basis" else 1,
        )
        leaves, tree = jax.tree.flatten(model.init(jax.random.key(1)))
        rng = np.random.default_rng(0)  # away from the zeros that layers start from
        leaves = [jnp.asarray(np.asarray(p) + 0.05 * rng.standard_normal(p.shape)) for p in leaves]
        params = jax.tree.unflatten(tree, leaves)
        x = jnp.asarray(rng.uniform(size=(4, *SHAPE)), jnp.float64)
        key = jax.random.key(2)
        (vae, critic), metrics = gradients_of_step(model, config, params, key, x)
        vae_loss, critic_loss = separate_losses(model, config, key, x)
        value, expected_vae = jax.value_and_grad(vae_loss)(
            (params.encoder, params.decoder), params.critic
        )
        expected_critic = jax.grad(critic_loss)(params.critic, *params[:2])
        np.testing.assert_allclose(-metrics["elbo_estimate"], value, rtol=1e-9)
        for got, expected in zip(
            jax.tree.leaves((vae, critic)),
            jax.tree.leaves((expected_vae, expected_critic)),
            strict=True,
        ):
            assert got.dtype == jnp.float64
            scale = np.linalg.norm(expected)
            np.testing.assert_allclose(got, expected, atol=1e-6 * scale + 1e-12, rtol=0)
        assert all(np.linalg.norm(g) > 0 for g in jax.tree.leaves(critic)[:1])


@pytest.mark.parametrize("encoder", ["gaussian", "gaussian-full"])
def test_explicit_encoders_train_by_the_analytic_kl(encoder):
    """Averaged over keys, the step's KL is that of the encoder's own density, exactly."""
    config, model = build(encoder=encoder)
    params = model.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (4, *SHAPE))
    (vae, _), metrics = gradients_of_step(model, config, params, jax.random.key(2), x)
    density = model.encode(params, jax.random.key(3), x, 1).density
    expected = jnp.mean(avb.objectives.kl_to_prior(density))
    np.testing.assert_allclose(metrics["kl_estimate"], expected, rtol=1e-5)
    assert set(metrics) == {"elbo_estimate", "reconstruction", "kl_estimate"}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(vae))


def run(config, model, steps, batch):
    optimizers = avb.build_optimizers(config)
    state = avb.init_state(model, optimizers, jax.random.key(config.seed))
    step = avb.fuse_steps(avb.make_train_step(model, optimizers, config), config.num_steps)
    compiled = avb.compile_step(step, batch_axis=1)
    return compiled(state, np.broadcast_to(batch, (steps, *batch.shape)))


IMAGES = (255 * np.eye(4, dtype=np.uint8)).reshape(4, 2, 2, 1)


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_the_encoder_follows_the_critic_that_it_is_shown(update):
    """The same critic, before its move or after it: relative 1e-4 of each leaf, float32."""
    config, model = build(
        update=update, critic_learning_rate=0.1, schedule="constant", warmup_steps=0
    )
    keep = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradient, state, params=None: (jax.tree.map(jnp.zeros_like, gradient), gradient),
    )
    optimizers = Optimizers(keep, avb.build_optimizers(config).critic)
    start = avb.init_state(model, optimizers, jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (4, *SHAPE))
    state, _ = jax.jit(avb.make_train_step(model, optimizers, config))(start, x)
    shown = (state if update == "alternating" else start).params.critic
    vae_loss, _ = separate_losses(model, config, start.key, x)
    expected = jax.grad(vae_loss)((start.params.encoder, start.params.decoder), shown)
    for got, want in zip(
        jax.tree.leaves(state.opt_state[0]), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.linalg.norm(want) + 1e-7)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params.critic, start.params.critic)
    assert max(jax.tree.leaves(moved)) > 0.05


def test_critic_steps_update_the_critic_more_often():
    config, model = build(critic_steps=3, binarization="threshold")
    state, _ = run(config, model, 2, IMAGES)
    vae, critic = state.opt_state
    assert int(critic[0][0].count) == 6
    assert int(vae[0][0].count) == 2
    assert int(state.step) == 2


def test_steps_after_the_last_leave_the_state_as_it_is():
    config, model = build(num_steps=3, binarization="threshold")
    short, metrics = run(config, model, 3, IMAGES)
    long, padded = run(config, model, 5, IMAGES)
    chex.assert_trees_all_equal(short.params, long.params)
    assert int(long.step) == 3
    np.testing.assert_array_equal(padded["elbo_estimate"][:3], metrics["elbo_estimate"])
    assert np.isnan(padded["elbo_estimate"][3:]).all()


def test_kl_warm_up_weighs_the_kl():
    """With a huge warm-up the encoder's gradient is the reconstruction's alone."""
    gradients = []
    for warmup in (0, 10**9):
        config, model = build(encoder="gaussian", kl_warmup_steps=warmup)
        params = model.init(jax.random.key(0))
        x = jax.random.uniform(jax.random.key(1), (4, *SHAPE))
        (vae, _), _ = gradients_of_step(model, config, params, jax.random.key(2), x)
        gradients.append(vae[0])

    def reconstruction(phi):
        _, key_q, _, _ = jax.random.split(jax.random.fold_in(jax.random.key(2), 0), 4)
        z = model.encode(params._replace(encoder=phi), key_q, x, 1).z
        return -jnp.mean(model.log_likelihood(model.decode(params.decoder, z), x))

    expected = jax.grad(reconstruction)(params.encoder)
    chex.assert_trees_all_close(gradients[1], expected, atol=1e-6)
    leaves = zip(jax.tree.leaves(gradients[0]), jax.tree.leaves(expected), strict=True)
    assert any(not np.allclose(a, b, atol=1e-4) for a, b in leaves)


def test_averaged_parameters_are_those_evaluated():
    config, model = build(ema_decay=0.9, binarization="threshold")
    state, _ = run(config, model, 20, IMAGES)
    kernel = jax.tree.leaves(state.params.decoder)[1]
    averaged = jax.tree.leaves(state.evaluation_params.decoder)[1]
    assert not np.allclose(kernel, averaged)
    chex.assert_trees_all_equal(state.params.critic, state.evaluation_params.critic)


def test_the_state_is_donated_and_the_step_is_traced_once():
    config, model = build(binarization="threshold")
    optimizers = avb.build_optimizers(config)
    state = avb.init_state(model, optimizers, jax.random.key(0))
    chex.clear_trace_counter()
    step = chex.assert_max_traces(avb.make_train_step(model, optimizers, config), n=1)
    compiled = avb.compile_step(step)
    first, _ = compiled(state, IMAGES)
    second, _ = compiled(first, IMAGES)
    compiled(second, IMAGES)
    leaves = jax.tree.leaves(first.params)
    assert all(leaf.is_deleted() for leaf in leaves)
