"""`Model`: the networks as pure functions of (parameters, arrays), and what follows from them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from avb_jax import contrast as contrasts
from avb_jax import inverse_flow
from avb_jax.config import Config
from avb_jax.contrast import Contrast
from avb_jax.densities import LIKELIHOODS, log_prior
from avb_jax.networks import critics, decoders, encoders, flows
from avb_jax.networks.trunk import Trunk
from avb_jax.types import (
    Answers,
    Array,
    DecodeFn,
    DrawFn,
    EncodeFn,
    Flow,
    InitFn,
    Key,
    LogLikelihoodFn,
    LogRatioFn,
    MeanFn,
    Params,
    View,
)

POSTERIOR_DRAWS = 256  # of q(z|x), behind the moments that log_posterior_estimate needs, or 4 D


class Model(NamedTuple):
    """A latent-variable model and its posterior, as pure functions. Build your own freely.

    Attributes:
        event_shape: the shape of x, `...`.
        latent_dim: D.
        init: key -> Params.
        encode: (Params, key, x [B, ...], S) -> Encoding with z [S, B, D]. It trains the encoder's
            parameters alone; an encoder that consults the decoder finds it there.
        decode: (decoder params, z [S, B, D]) -> outputs, a tree of arrays.
        log_likelihood: (outputs, x [B, ...]) -> log p(x|z) [S, B], nats.
        mean: outputs -> E[x|z], [S, B, ...].
        log_ratio: (Params, View, z̃ [S, B, D]) -> s(x, z̃) [S, B], nats, z̃ being z in the
            contrast's coordinates and the `View` what the critic may know beside; None for an
            explicit encoder. It trains the critic's parameters alone.
        contrast: the density r(z|x) that the critic compares q(z|x) with.
        draw: (key, outputs) -> x ~ p(x|z) [S, B, ...]; None where nobody simulates.
    """

    event_shape: tuple[int, ...]
    latent_dim: int
    init: InitFn
    encode: EncodeFn
    decode: DecodeFn
    log_likelihood: LogLikelihoodFn
    mean: MeanFn
    log_ratio: LogRatioFn | None
    contrast: Contrast
    draw: DrawFn | None = None

    def sample_posterior(self, params: Params, key: Key, x: Array, num_samples: int) -> Array:
        """Draws of q(z|x): [S, B, D]."""
        return self.encode(params, key, jnp.asarray(x), num_samples).z

    def decode_mean(self, params: Params, z: Array) -> Array:
        """E[x|z]: z [S, B, D] -> [S, B, ...]."""
        return self.mean(self.decode(params.decoder, z))

    def log_joint(self, params: Params, x: Array, z: Array) -> Array:
        """log p(x|z) + log p(z) in nats: z [S, B, D] -> [S, B]."""
        return self.log_likelihood(self.decode(params.decoder, z), x) + log_prior(z)

    def simulate(self, params: Params, key: Key, num_data: int) -> tuple[Array, Array]:
        """Data points that the model makes, and what it made them from: x [n, ...], z [n, D].

        Raises:
            ValueError: where the model cannot draw x.
        """
        if self.draw is None:
            raise ValueError("draw was None; allowed is (key, outputs) -> x, where x is simulated")
        key_z, key_x = jax.random.split(key)
        z = jax.random.normal(key_z, (num_data, self.latent_dim))
        return self.draw(key_x, self.decode(params.decoder, z[None]))[0], z

    def score(self, params: Params, x: Array, z: Array) -> Array:
        """∇_z log p(x, z), one z for each x, in nats per unit of z: z [B, D] -> [B, D]."""
        return jax.grad(lambda z: jnp.sum(self.log_joint(params, x, z[None])))(z)

    def survey(self, params: Params, x: Array, z: Array) -> Array:
        """log p(x, z) of the same z for all x, decoded once, in nats: z [K, D] -> [K, B]."""
        return self.log_joint(params, x, z[:, None])

    def gain(self, params: Params, view: View, z_tilde: Array) -> Array:
        """log p(x|z) − log p(x|m), m the contrast's mean, in nats: z̃ [S, B, D] -> [S, B].

        Decoder and contrast are held: it moves with z̃ alone.
        """
        theta, reference = jax.lax.stop_gradient((params.decoder, view.reference))
        centred = jnp.concatenate([jnp.zeros_like(z_tilde[:1]), z_tilde])
        z = contrasts.unwhiten(centred, reference)
        log_likelihood = self.log_likelihood(self.decode(theta, z), view.x)
        return log_likelihood[1:] - log_likelihood[:1]

    def log_posterior_estimate(self, params: Params, key: Key, x: Array, z: Array) -> Array:
        """log q̂(z|x) = s_ψ(x, z̃) + log r(z|x) in nats: z [S, B, D] -> [S, B].

        An estimate, and no bound of anything: the critic's for an implicit encoder, whose
        moments, where draws must tell them, come from fresh draws by `key`; exact for an
        explicit one.

        Raises:
            ValueError: for a model that has neither a critic nor a density of q.
        """
        x = jnp.asarray(x)
        draws = max(POSTERIOR_DRAWS, 4 * self.latent_dim)
        encoding = self.encode(params, key, x, draws)
        if isinstance(encoding.density, Flow):
            return inverse_flow.log_density(z, encoding.density)
        if encoding.density is not None:
            return contrasts.log_density(z, encoding.density)
        if self.log_ratio is None:
            raise ValueError("log_ratio was None, with an encoding that has no density of q")
        reference = self.contrast.reference(params.critic, x, encoding)
        z_tilde = contrasts.whiten(z, reference)
        view = View(x, encoding.features, reference)
        log_r = self.contrast.log_density(z, reference, encoding)
        return self.log_ratio(params, view, z_tilde) + log_r

    def critic(self, params: Params, key: Key, x: Array, z: Array) -> Array:
        """T_ψ(x, z) = log q̂(z|x) − 1: [S, B]."""
        return self.log_posterior_estimate(params, key, x, z) - 1.0


def _build_encoder(config: Config):
    dim, noise, dtype = config.latent_dim, config.noise, config.layer_dtype
    if config.encoder == "noise-conv":
        return encoders.NoiseConv(dim, noise, config.width, config.channels, dtype)
    full = config.encoder != "gaussian"
    sizes = (dim, config.width, config.depth, config.refinement_steps, config.survey_side)
    channels = config.channels if config.trunk == "conv" else None
    trunk = Trunk(*sizes, full=full, channels=channels, dtype=dtype)
    if config.encoder == "noise-mlp":
        return encoders.NoiseMLP(trunk, noise, config.head_width, config.head_depth, dtype)
    if config.encoder == "basis":
        return encoders.Basis(trunk, noise, config.num_bases)
    if config.encoder == "iaf":
        return flows.FlowEncoder(trunk, config.head_width)
    return encoders.GaussianEncoder(trunk)


def _build_decoder(config: Config, event_shape: tuple[int, int, int]):
    if config.decoder == "mlp":
        sizes = (config.width, config.depth)
        decoder = decoders.MLPDecoder(event_shape, *sizes, config.layer_dtype)
    else:
        sizes = (config.width, config.channels)
        decoder = decoders.ConvDecoder(event_shape, *sizes, config.layer_dtype)
    if LIKELIHOODS[config.likelihood].has_scale:
        return decoders.PixelScale(decoder, channels=event_shape[-1])
    return decoder


def _build_critic(config: Config):
    sizes = {
        "width": config.critic_width,
        "depth": config.critic_depth,
        "trunk_width": config.critic_trunk_width,
        "trunk_depth": config.critic_trunk_depth,
        "dtype": config.layer_dtype,
    }
    if config.critic == "inner-product":
        return critics.InnerProductCritic(**sizes)
    return critics.ResidualCritic(**sizes, conditional=config.critic != "unconditional")


def _build_contrast(config: Config):
    """The contrast, and the network of a `learned` one, which is the critic player's; else None."""
    name, covariance = config.contrast_name, config.covariance
    if name != "learned":
        return Contrast(name, covariance), None
    sizes = (config.latent_dim, config.width, config.depth)
    network = critics.LearnedContrast(*sizes, config.layer_dtype)
    return Contrast(name, covariance, lambda psi, x: network.apply(psi["contrast"], x)), network


def build_model(config: Config, event_shape: tuple[int, int, int]) -> Model:
    """The model of a config, for images x of `event_shape` (height, width, channels).

    Raises:
        ValueError: if `event_shape` is not three positive numbers.
    """
    if len(event_shape) != 3 or min(event_shape) < 1:
        raise ValueError(
            f"event_shape was {event_shape}; allowed are three positive numbers, "
            "(height, width, channels)"
        )
    encoder, decoder = _build_encoder(config), _build_decoder(config, event_shape)
    critic, (contrast, network) = _build_critic(config), _build_contrast(config)
    likelihood = LIKELIHOODS[config.likelihood]
    informed = config.critic == "informed"

    def init(key: Key) -> Params:
        keys = jax.random.split(key, 5)
        x = jnp.zeros((1, *event_shape), jnp.float32)
        answers = Answers(jnp.zeros_like, lambda z: jnp.zeros((len(z), len(x)), x.dtype))
        encoding, phi = encoder.init_with_output(keys[0], x, keys[4], 1, answers)
        z, psi = encoding.z, {}
        if not config.explicit:
            context = View(x, encoding.features, None).context
            psi["critic"] = critic.init(keys[2], context, z, *([z[..., 0]] if informed else []))
        if network is not None:
            psi["contrast"] = network.init(keys[3], x)
        return Params(encoder=phi, decoder=decoder.init(keys[1], z[0]), critic=psi)

    def decode(params, z):
        outputs = decoder.apply(params, z.reshape(-1, z.shape[-1]))
        location = outputs[0] if likelihood.has_scale else outputs
        location = location.reshape(*z.shape[:2], *event_shape)
        return (location, outputs[1]) if likelihood.has_scale else location

    def encode(params, key, x, num_samples):
        answers = Answers(partial(model.score, params, x), partial(model.survey, params, x))
        return encoder.apply(params.encoder, x, key, num_samples, answers)

    def log_ratio(params, view, z_tilde):
        gain = [model.gain(params, view, z_tilde)] if informed else []
        return critic.apply(params.critic["critic"], view.context, z_tilde, *gain)

    model = Model(
        event_shape=tuple(event_shape),
        latent_dim=config.latent_dim,
        init=init,
        encode=encode,
        decode=decode,
        log_likelihood=likelihood.log_prob,
        mean=likelihood.mean,
        draw=likelihood.draw,
        log_ratio=None if config.explicit else log_ratio,
        contrast=contrast,
    )
    return model
