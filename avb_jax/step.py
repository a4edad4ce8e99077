"""`TrainState` and the fused saddle-point step: (state, batch) -> (state, metrics)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from avb_jax import contrast as contrasts
from avb_jax import objectives
from avb_jax.config import Config
from avb_jax.data import binarize
from avb_jax.densities import log_prior
from avb_jax.model import Model
from avb_jax.optimizers import Optimizers, averaged_parameters
from avb_jax.types import Array, Encoding, Gaussian, Key, Params, Tree

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """All that a run is, as arrays alone.

    Attributes:
        step: steps taken.
        key: the run's one key; step t draws from fold_in(key, t).
        params: the parameters of both players.
        opt_state: (vae, critic), two optax states.
    """

    step: Array
    key: Key
    params: Params
    opt_state: tuple[Tree, Tree]

    @property
    def evaluation_params(self) -> Params:
        """`params`, encoder and decoder averaged where the optimiser keeps an average."""
        now = (self.params.encoder, self.params.decoder)
        encoder, decoder = averaged_parameters(self.opt_state[0], now)
        return self.params._replace(encoder=encoder, decoder=decoder)


Step = Callable[[TrainState, Array], tuple[TrainState, Metrics]]


def init_state(model: Model, optimizers: Optimizers, key: Key) -> TrainState:
    """A fresh state: `model.init` with one half of the key, the other for training."""
    init_key, run_key = jax.random.split(key)
    params = model.init(init_key)
    opt_state = (
        optimizers.vae.init((params.encoder, params.decoder)),
        optimizers.critic.init(params.critic),
    )
    return TrainState(jnp.zeros([], jnp.int32), run_key, params, opt_state)


class Draws(NamedTuple):
    """What the two players need of q(z|x) for one batch.

    Attributes:
        z: [S, B, D].
        z_tilde: [S, B, D], z in the contrast's coordinates.
        log_scale: [B], ½ log|C| of the contrast, nats.
        density: q itself, where it is Gaussian; else None.
    """

    z: Array
    z_tilde: Array
    log_scale: Array
    density: Gaussian | None


class _Players(NamedTuple):
    """The saddle-point problem of one config: its terms, shared by all kinds of update."""

    model: Model
    config: Config

    @property
    def as_written(self) -> bool:
        return self.config.critic_loss == "exp_as_written"

    def draw(self, phi: Tree, psi: Tree, key: Key, x: Array) -> tuple[Draws, Encoding]:
        """Draws of q(z|x), differentiable in φ, also through the standardisation."""
        model = self.model
        encoding = model.encode(phi, key, x, self.config.samples)
        if encoding.density is not None:
            zero = jnp.zeros(x.shape[0], encoding.z.dtype)
            return Draws(encoding.z, encoding.z, zero, encoding.density), encoding
        reference = model.contrast.reference(psi, x, encoding)
        if self.as_written:  # there q moves through z alone
            reference = jax.lax.stop_gradient(reference)
        log_scale = contrasts.log_scale(reference, encoding.z)
        log_scale = log_scale - model.contrast.log_scale_bias(encoding)
        z_tilde = contrasts.whiten(encoding.z, reference)
        return Draws(encoding.z, z_tilde, log_scale, None), encoding

    def reference_draws(self, key: Key, encoding: Encoding) -> Array:
        contrast = self.model.contrast
        own_moments = contrast.whitens_draws(encoding)
        return contrasts.sample_reference(key, encoding.z, own_moments, contrast.covariance)

    def log_ratio(self, psi: Tree, z_q: Array, *, x: Array, z_r: Array) -> Array:
        """s at the draws of q, then at those of r: [2S, B], with one pass over x."""
        return self.model.log_ratio(psi, x, jnp.concatenate([z_q, z_r]))

    def minus_log_contrast(self, draws: Draws) -> Array:
        """−log r(z|x) in nats, [S, B] or [1, B]; its mean, where r has the moments of q."""
        dim = draws.z.shape[-1]
        if self.model.contrast.name == "moments" and not self.as_written:
            return objectives.gaussian_entropy(draws.log_scale, dim)[None]
        return draws.log_scale[None] - log_prior(draws.z_tilde)

    def critic_loss(self, s: Array, draws: Draws) -> Array:
        """Mean critic loss; s is [2S, B]."""
        s_q, s_r = jnp.split(s, 2)
        if self.as_written:
            s_q = s_q - self.minus_log_contrast(draws) - 1.0  # T
        return jnp.mean(objectives.critic_loss(self.config.critic_loss, s_q, s_r))

    def contrast_loss(self, psi: Tree, x: Array, z: Array) -> Array:
        """−E_q log r_α(z|x): zero unless the contrast is learned."""
        if self.model.contrast.name != "learned":
            return jnp.zeros([], z.dtype)
        return -jnp.mean(contrasts.log_density(z, self.model.contrast.network(psi, x)))

    def elbo_terms(self, theta: Tree, draws: Draws, x: Array) -> tuple[Array, Array]:
        """Mean reconstruction, and mean KL(q‖p) less the critic's share E_q[s], in nats."""
        outputs = self.model.decode(theta, draws.z[: self.config.decoder_samples])
        reconstruction = jnp.mean(self.model.log_likelihood(outputs, x))
        if draws.density is not None:
            return reconstruction, jnp.mean(objectives.kl_to_prior(draws.density))
        entropy = jnp.mean(self.minus_log_contrast(draws))
        return reconstruction, -entropy - jnp.mean(log_prior(draws.z))


def _critic_gradient(players: _Players, psi: Tree, draws: Draws, s: Array, pull, x: Array):
    """ψ-gradient by a pull-back of the critic's linearisation, and the loss it belongs to."""
    loss, s_bar = jax.value_and_grad(players.critic_loss)(s, draws)
    gradient, _ = pull(s_bar)
    if players.model.contrast.name == "learned":
        contrast_gradient = jax.grad(players.contrast_loss)(psi, x, draws.z)
        gradient = jax.tree.map(jnp.add, gradient, contrast_gradient)
    return gradient, loss


def _linearise_critic(players: _Players, psi: Tree, draws: Draws, z_r: Array, x: Array):
    return jax.vjp(partial(players.log_ratio, x=x, z_r=z_r), psi, draws.z_tilde)


def _vae_gradients(players: _Players, theta: Tree, draws: Draws, pull_draws, s_z: Array, x, weight):
    """Gradients of −ELBO in (φ, θ), and its two terms; s_z is the z̃-gradient of E_q[s]."""

    def loss(theta, draws):
        reconstruction, kl = players.elbo_terms(theta, draws, x)
        return weight * kl - reconstruction, (reconstruction, kl)

    (draws_theta, terms) = jax.grad(loss, argnums=(0, 1), has_aux=True)(theta, draws)
    theta_gradient, draws_bar = draws_theta
    draws_bar = draws_bar._replace(z_tilde=draws_bar.z_tilde + weight * s_z)
    (phi_gradient,) = pull_draws(draws_bar)
    return (phi_gradient, theta_gradient), terms


def _critic_metrics(loss: Array, s: Array) -> Metrics:
    s_q, s_r = jnp.split(s, 2)
    return {
        "critic_loss": loss,
        "log_ratio": jnp.mean(s_q),
        "balance": objectives.balance(s_q, s_r),
        "reference_mean_ratio": jnp.mean(jnp.exp(s_r)),
    }


def _apply(optimizer: optax.GradientTransformation, gradient: Tree, opt_state: Tree, params: Tree):
    with jax.numpy_dtype_promotion("standard"):  # optax itself mixes dtypes
        updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def make_train_step(model: Model, optimizers: Optimizers, config: Config) -> Step:
    """The fused saddle-point step (paper, algorithm 1), a pure function.

    Encoder, decoder and critic run forward once on z_q; the critic's ψ-gradient and the
    encoder's z̃-gradient are two pull-backs of one linearisation. With
    `update="alternating"` ψ moves first and the critic is linearised again. `critic_steps`
    beyond the first are taken before, on fresh noise.

    Args:
        model: networks and contrast.
        optimizers: (vae, critic).
        config: `critic_loss`, `critic_steps`, `update`, `samples`, `binarization`, ...

    Returns:
        (state, batch, axis_name=None) -> (state, metrics). The batch is uint8 images
        [B, h, w, c], binarised as the config says, or floats taken as they are. Metrics are
        scalars in nats: `elbo_estimate` (not a bound where a critic estimates it),
        `reconstruction`, `kl_estimate` and, with a critic, `critic_loss`, `log_ratio` =
        E_q[s], `balance` and `reference_mean_ratio` = E_r[exp s]. Gradients and metrics are
        averaged over `axis_name` where that is given.
    """
    objectives.warn_if_as_written(config.critic_loss)
    players = _Players(model, config)

    def critic_step(carry, key, phi, x, mean):
        psi, opt_state = carry
        key_q, key_r = jax.random.split(key)
        draws, encoding = players.draw(phi, psi, key_q, x)
        z_r = players.reference_draws(key_r, encoding)
        s, pull = _linearise_critic(players, psi, draws, z_r, x)
        gradient, _ = _critic_gradient(players, psi, draws, s, pull, x)
        return _apply(optimizers.critic, mean(gradient), opt_state, psi), None

    def step(state: TrainState, batch: Array, axis_name: str | None = None):
        def mean(tree):
            return jax.lax.pmean(tree, axis_name) if axis_name else tree

        key = jax.random.fold_in(state.key, state.step)
        if axis_name:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        key_x, key_q, key_r, key_extra = jax.random.split(key, 4)
        x = binarize(key_x, batch, config.binarization) if batch.dtype == jnp.uint8 else batch
        phi, theta, psi = state.params
        vae_state, critic_state = state.opt_state
        weight = jnp.asarray(1.0, x.dtype)
        if config.kl_warmup_steps:
            progress = (state.step + 1).astype(x.dtype) / config.kl_warmup_steps
            weight = jnp.minimum(weight, progress)
        if model.log_ratio is not None and config.critic_steps > 1:
            extra = partial(critic_step, phi=phi, x=x, mean=mean)
            keys = jax.random.split(key_extra, config.critic_steps - 1)
            (psi, critic_state), _ = jax.lax.scan(extra, (psi, critic_state), keys)

        draw = partial(players.draw, psi=psi, key=key_q, x=x)
        draws, pull_draws, encoding = jax.vjp(lambda phi: draw(phi), phi, has_aux=True)
        s_z, share, metrics = jnp.zeros_like(draws.z), 0.0, {}
        if model.log_ratio is not None:
            z_r = players.reference_draws(key_r, encoding)
            s, pull = _linearise_critic(players, psi, draws, z_r, x)
            gradient, loss = _critic_gradient(players, psi, draws, s, pull, x)
            psi, critic_state = _apply(optimizers.critic, mean(gradient), critic_state, psi)
            metrics = _critic_metrics(loss, s)
            if config.update == "alternating":
                s, pull = _linearise_critic(players, psi, draws, z_r, x)
            share = jnp.mean(jnp.split(s, 2)[0])
            ones = jnp.concatenate([jnp.ones_like(z_r[..., 0]), jnp.zeros_like(z_r[..., 0])])
            _, s_z = pull(ones / z_r[..., 0].size)

        gradient, terms = _vae_gradients(players, theta, draws, pull_draws, s_z, x, weight)
        vae = (phi, theta)
        (phi, theta), vae_state = _apply(optimizers.vae, mean(gradient), vae_state, vae)
        reconstruction, kl = terms[0], terms[1] + share
        elbo = {"elbo_estimate": reconstruction - kl, "reconstruction": reconstruction}
        metrics = {**elbo, "kl_estimate": kl, **metrics}
        params = Params(phi, theta, psi)
        state = TrainState(state.step + 1, state.key, params, (vae_state, critic_state))
        return state, mean(metrics)

    return step


def fuse_steps(step: Step, num_steps: int | None = None) -> Step:
    """K whole steps in one `lax.scan`: batches [K, B, ...] -> metrics of shape [K].

    Steps from `num_steps` on leave the state as it is and return NaN, so that a last, short
    call needs no compilation of its own.
    """

    def steps(state: TrainState, batches: Array, axis_name: str | None = None):
        one = partial(step, axis_name=axis_name) if axis_name else step
        if num_steps is None:
            return jax.lax.scan(one, state, batches)
        metrics = jax.eval_shape(one, state, batches[0])[1]

        def done(state, batch):
            return state, jax.tree.map(lambda m: jnp.full(m.shape, jnp.nan, m.dtype), metrics)

        return jax.lax.scan(
            lambda s, b: jax.lax.cond(s.step < num_steps, one, done, s, b), state, batches
        )

    return steps
