"""`build_model` in all its combinations, and log q̂ against closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import avb_jax as avb
from avb_jax.choices import CONTRASTS, DECODERS, EXPLICIT_ENCODERS, IMPLICIT_ENCODERS
from avb_jax.contrast import log_scale_bias
from avb_jax.densities import LIKELIHOODS
from avb_jax.model import POSTERIOR_DRAWS, Model
from avb_jax.types import View

S, B, D = 4, 2, 2
EVENT_SHAPE = (5, 4, 3)
X = np.random.default_rng(0).uniform(size=(B, *EVENT_SHAPE)).astype(np.float32)
Z = np.random.default_rng(1).normal(size=(S, B, D)).astype(np.float32)
SMALL = {
    "latent_dim": D, "noise_dim": 3, "width": 16, "depth": 1, "head_width": 16, "head_depth": 1,
    "num_bases": 3, "critic_width": 16, "critic_depth": 1, "critic_trunk_width": 16,
    "critic_trunk_depth": 1, "binarization": "none",
}  # fmt: skip
COMBINATIONS = [
    *itertools.product(IMPLICIT_ENCODERS, DECODERS, LIKELIHOODS, CONTRASTS),
    *itertools.product(EXPLICIT_ENCODERS, DECODERS, LIKELIHOODS, [None]),
]


def small_model(**choices) -> Model:
    return avb.build_model(avb.Config(**SMALL, **choices), EVENT_SHAPE)


def random_params(model: Model, zero_critic: bool = False) -> avb.Params:
    """Parameters none of which is zero, save the critic network's where asked."""
    rng = np.random.default_rng(2)

    def fill(leaf):
        fan_in = max(1, int(np.prod(leaf.shape[-2:-1])))
        return (rng.normal(size=leaf.shape) / fan_in**0.5).astype(leaf.dtype)

    params = jax.tree.map(fill, jax.eval_shape(model.init, jax.random.key(0)))
    if zero_critic:
        zeros = jax.tree.map(np.zeros_like, params.critic["critic"])
        params = params._replace(critic={**params.critic, "critic": zeros})
    return params


@pytest.mark.parametrize("encoder, decoder, likelihood, contrast", COMBINATIONS)
def test_every_combination_builds(encoder, decoder, likelihood, contrast):
    """By tracing: all shapes and dtypes of a model's functions, without their arithmetic."""
    model = small_model(encoder=encoder, decoder=decoder, likelihood=likelihood, contrast=contrast)

    def everything(key, x, z):
        params = model.init(key)
        draws = model.sample_posterior(params, key, x, S)
        log_q = model.log_posterior_estimate(params, key, x, z)
        return draws, model.decode_mean(params, z), model.log_joint(params, x, z), log_q

    results = jax.eval_shape(everything, jax.random.key(0), X, Z)
    shapes = [(S, B, D), (S, B, *EVENT_SHAPE), (S, B), (S, B)]
    assert [r.shape for r in results] == shapes
    assert {str(r.dtype) for r in results} == {"float32"}
    assert model.event_shape == EVENT_SHAPE and model.latent_dim == D
    assert (model.log_ratio is None) == (encoder in EXPLICIT_ENCODERS)
    assert model.contrast.name == (contrast or "prior")


@pytest.mark.parametrize("encoder", ["noise-conv", "basis"])
def test_channels_are_those_of_the_convolutions_next_to_the_image(encoder):
    """The encoder's first and the decoder's last, with an image of 3 channels on the other side."""
    model = avb.build_model(
        avb.Config(**SMALL, encoder=encoder, trunk="conv", decoder="conv", channels=6), (9, 9, 3)
    )
    params = jax.eval_shape(model.init, jax.random.key(0))
    for player in (params.encoder, params.decoder):
        kernels = [leaf.shape for leaf in jax.tree.leaves(player) if leaf.ndim == 4]
        assert any({3, 6} == set(shape[2:]) for shape in kernels), kernels


def test_init_is_a_function_of_the_key():
    model = small_model(encoder="gaussian", likelihood="gaussian")
    init = jax.jit(model.init)
    first, again, other = init(jax.random.key(0)), init(jax.random.key(0)), init(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    drawn = 0
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        if one.ndim > 1 and np.any(one):  # neither a bias nor an output layer that starts at zero
            assert np.all(one != two)
            drawn += 1
    assert drawn == 4


def test_the_critic_group_holds_what_the_critic_moves():
    assert set(random_params(small_model(contrast="learned")).critic) == {"critic", "contrast"}
    assert set(random_params(small_model()).critic) == {"critic"}
    assert random_params(small_model(encoder="gaussian")).critic == {}


@pytest.mark.parametrize("encoder", ["gaussian", "gaussian-full"])
def test_log_posterior_of_a_gaussian_encoder_is_exact(encoder):
    model = small_model(encoder=encoder)
    params = random_params(model)
    density = jax.jit(model.encode, static_argnums=3)(params, jax.random.key(0), X, 1).density
    actual = jax.jit(model.log_posterior_estimate)(params, jax.random.key(1), X, Z)
    mean, factor = (np.asarray(a, np.float64) for a in density)
    for b in range(B):
        expected = scipy.stats.multivariate_normal(mean[b], factor[b] @ factor[b].T).logpdf(Z[:, b])
        np.testing.assert_allclose(actual[:, b], expected, rtol=1e-4)


def contrast_moments(model: Model, params: avb.Params, encoding: avb.Encoding) -> tuple:
    """Mean [B, D] and covariance [B, D, D] of r(z|x), by NumPy from what the encoder returns."""
    if model.contrast.name == "prior":
        return np.zeros((B, D)), np.stack([np.eye(D)] * B)
    if model.contrast.name == "learned":
        network = jax.jit(model.contrast.network)
        mean, factor = map(np.asarray, network(params.critic, X.astype(np.float64)))
        return mean, factor @ factor.transpose(0, 2, 1)
    if encoding.moments is not None:
        mean, covariance = map(np.asarray, encoding.moments[:2])
    else:
        z = np.asarray(encoding.z)
        mean = z.mean(0)
        covariance = np.stack([np.cov(z[:, b].T, bias=True) for b in range(B)])
    if model.contrast.covariance == "diagonal":
        covariance = covariance * np.eye(D)
    return mean, covariance


def closed_form(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log r(z|x) [S, B] by SciPy, and z̃ [S, B, D] by NumPy, at Z."""
    log_r, z_tilde = np.zeros((S, B)), np.zeros((S, B, D))
    for b in range(B):
        log_r[:, b] = scipy.stats.multivariate_normal(mean[b], covariance[b]).logpdf(Z[:, b])
        factor = np.linalg.cholesky(covariance[b])
        z_tilde[:, b] = np.linalg.solve(factor, (Z[:, b] - mean[b]).T).T
    return log_r, z_tilde


@pytest.mark.parametrize(
    "encoder, contrast, covariance, critic",
    [
        ("noise-mlp", "prior", "full", "inner-product"),
        ("noise-mlp", "learned", "full", "unconditional"),
        ("noise-mlp", "moments", "full", "residual"),
        ("basis", "moments", "full", "informed"),
        ("noise-mlp", "prior", "full", "informed"),
        ("basis", "moments", "diagonal", "inner-product"),
    ],
)
def test_log_posterior_of_an_implicit_encoder(encoder, contrast, covariance, critic):
    """log r(z|x), and the critic's value in r's own coordinates; T is one less."""
    model = small_model(encoder=encoder, contrast=contrast, covariance=covariance, critic=critic)

    @jax.jit
    def everything(params, key, x, z):
        encoding = model.encode(params, key, x, POSTERIOR_DRAWS)
        log_q = model.log_posterior_estimate(params, key, x, z)
        return encoding, log_q, model.critic(params, key, x, z)

    log_ratio = jax.jit(model.log_ratio)
    for zero_critic in (True, False):
        with jax.enable_x64(True):
            params = random_params(model, zero_critic)
            params = jax.tree.map(lambda p: p.astype(np.float64), params)
            x, z = X.astype(np.float64), Z.astype(np.float64)
            encoding, log_q, critic_value = everything(params, jax.random.key(3), x, z)
            log_r, z_tilde = closed_form(*contrast_moments(model, params, encoding))
            if model.contrast.whitens_draws(encoding):  # what that adds is taken back
                shrink = (POSTERIOR_DRAWS - D - 2.0) / (POSTERIOR_DRAWS + 1.0)
                log_r = log_r + 0.5 * (1.0 - shrink) * np.square(z_tilde).sum(-1)
                log_r = log_r + log_scale_bias(POSTERIOR_DRAWS, D, covariance)
            reference = model.contrast.reference(params.critic, x, encoding)
            s = np.asarray(log_ratio(params, View(x, encoding.features, reference), z_tilde))
        assert np.any(s) != zero_critic
        np.testing.assert_allclose(log_q, log_r + s, rtol=1e-6)
        np.testing.assert_allclose(critic_value, log_r + s - 1.0, rtol=1e-6)


@pytest.mark.parametrize("reference", [None, "a Gaussian"])
def test_the_gain_is_how_much_better_than_the_contrasts_mean(reference):
    """log p(x|z) − log p(x|m); its gradient in z̃ is Lᵀ ∇ log p(x|z), and the decoder has none."""
    model = small_model()
    params = random_params(model)
    z_tilde, mean, factor = Z, np.zeros((B, D), np.float32), np.stack([np.eye(D, dtype="f")] * B)
    if reference:
        rng = np.random.default_rng(5)
        mean = rng.normal(size=(B, D)).astype(np.float32)
        factor = np.tril(rng.normal(size=(B, D, D))).astype(np.float32)
        reference = avb.Gaussian(mean, factor)

    def log_p(z):
        return model.log_likelihood(model.decode(params.decoder, z), X)

    z = mean[None] + np.einsum("bde,sbe->sbd", factor, z_tilde)
    expected = log_p(z) - log_p(mean[None])
    slope = np.einsum("bde,sbd->sbe", factor, jax.grad(lambda z: log_p(z).sum())(jnp.asarray(z)))

    def total(params, z_tilde):
        gain = model.gain(params, View(X, None, reference), z_tilde)
        return gain.sum(), gain

    gradients, gain = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, z_tilde)
    np.testing.assert_allclose(gain, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients[1], slope, rtol=1e-3, atol=1e-4)
    assert all(np.all(leaf == 0.0) for leaf in jax.tree.leaves(gradients[0]))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_log_joint_is_the_likelihood_and_the_prior(likelihood):
    model = small_model(likelihood=likelihood, encoder="gaussian")
    params = random_params(model)
    decode_mean = jax.jit(model.decode_mean)

    @jax.jit
    def both(params, x, z):
        outputs = model.decode(params.decoder, z)
        return model.log_likelihood(outputs, x), model.log_joint(params, x, z)

    log_likelihood, log_joint = both(params, X, Z)
    expected = np.asarray(log_likelihood) + scipy.stats.norm.logpdf(Z).sum(-1)
    np.testing.assert_allclose(log_joint, expected, rtol=1e-5)
    mean = np.asarray(decode_mean(params, Z))
    assert mean.shape == (S, B, *EVENT_SHAPE) and np.all((0.0 <= mean) & (mean <= 1.0))
    # The decoder sees z alone, one row at a time.
    swapped = np.asarray(decode_mean(params, Z[::-1, ::-1]))
    np.testing.assert_allclose(swapped, mean[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("asks", [{}, {"refinements": 1}, {"survey": 4}])
def test_an_encoder_that_asks_consults_the_decoder_it_has_and_no_other(asks):
    """Its draws move with θ; those of an encoder that does not ask stay."""
    model = small_model(**{"refinements": 0, "survey": 0, **asks})
    params = random_params(model)
    other = params._replace(decoder=jax.tree.map(lambda p: 1.5 * p, params.decoder))
    encode = jax.jit(model.encode, static_argnums=3)
    draws = [encode(p, jax.random.key(0), X, S).z for p in (params, other)]
    assert np.array_equal(*draws) == (not asks)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_score_is_the_gradient_of_the_log_joint(likelihood):
    """Against central differences in float64, one coordinate at a time."""
    model = small_model(likelihood=likelihood)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: p.astype(np.float64), random_params(model))
        x, z, log_joint = X.astype(np.float64), Z[0].astype(np.float64), jax.jit(model.log_joint)
        score = np.asarray(jax.jit(model.score)(params, x, z))
        for d in range(D):
            steps = 1e-5 * np.eye(D)[d] * np.array([1.0, -1.0])[:, None, None]
            ahead, behind = log_joint(params, x, z + steps)
            np.testing.assert_allclose(score[:, d], (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_survey_is_the_log_joint_of_the_same_z_for_all_x(likelihood):
    model = small_model(likelihood=likelihood)
    params, z = random_params(model), Z[0]
    survey = jax.jit(model.survey)(params, X, z)
    everywhere = jnp.broadcast_to(z[:, None], (len(z), len(X), D))
    np.testing.assert_allclose(survey, model.log_joint(params, X, everywhere), rtol=1e-5)


@pytest.mark.parametrize("event_shape", [(8, 8), (8, 8, 1, 1), (0, 8, 1), (8, -1, 1)])
def test_event_shapes_that_are_not_images_are_refused(event_shape):
    with pytest.raises(ValueError, match=r"event_shape was .* allowed are three positive numbers"):
        avb.build_model(avb.Config(), event_shape)
