"""The saddle-point problem of one batch: the two players' terms, gradients and moves."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from avb_jax import contrast as contrasts
from avb_jax import objectives
from avb_jax.config import Config
from avb_jax.densities import log_prior
from avb_jax.model import Model
from avb_jax.types import Array, Encoding, Flow, Key, Params, Tree, View

Metrics = dict[str, Array]


class Draws(NamedTuple):
    """What the two players need of q(z|x) for one batch.

    Attributes:
        z: [S, B, D].
        decoded: [K, B, D], those that are decoded, half of them mirrored where q offers that: what
            is odd in the noise of the gradient then cancels.
        cross_entropy: −log p(z) in nats, [S, B], or [1, B], its mean where the moments tell it.
        z_tilde: [S, B, D], z in the contrast's coordinates.
        log_scale: [B], ½ log|C| of the contrast, nats.
        kl: KL(q‖p) of an explicit encoder in nats, [1, B], or a draw's share in it, [S, B], where
            q is a flow; else None.
        view: what the critic sees beside z̃; None without a critic.
    """

    z: Array
    decoded: Array
    cross_entropy: Array
    z_tilde: Array
    log_scale: Array
    kl: Array | None
    view: View | None


class Players(NamedTuple):
    """The saddle-point problem of one config: its terms, shared by all kinds of update."""

    model: Model
    config: Config

    @property
    def as_written(self) -> bool:
        return self.config.critic_loss == "exp_as_written"

    @property
    def by_moments(self) -> bool:
        """Whether the entropy is that of the contrast's moments, less what the critic finds."""
        return self.model.contrast.name == "moments" and not self.as_written

    def draw(self, phi: Tree, params: Params, key: Key, x: Array) -> tuple[Draws, Encoding]:
        """Draws of q(z|x), differentiable in φ, also through the standardisation.

        The rest of the parameters is held: an encoder may consult the decoder, but does not
        train it by that.
        """
        model = self.model
        held = jax.lax.stop_gradient(params)
        encoding = model.encode(held._replace(encoder=phi), key, x, self.config.samples)
        decoded, z = self._decoded(encoding), encoding.z
        if model.log_ratio is None:
            zero = jnp.zeros(x.shape[0], z.dtype)
            return Draws(z, decoded, zero[None], z, zero, _exact_kl(encoding), None), encoding
        model.contrast.check_draws(encoding)
        reference = model.contrast.reference(params.critic, x, encoding)
        if self.as_written:  # there q moves through z alone
            reference = jax.lax.stop_gradient(reference)
        log_scale = contrasts.log_scale(reference, z) - model.contrast.log_scale_bias(encoding)
        cross_entropy = -log_prior(z)
        if self.by_moments and encoding.moments is not None:
            cross_entropy = objectives.cross_entropy_to_prior(encoding.moments)[None]
        z_tilde = contrasts.whiten(z, reference)
        view = jax.lax.stop_gradient(View(x, encoding.features, reference))
        return Draws(z, decoded, cross_entropy, z_tilde, log_scale, None, view), encoding

    def _decoded(self, encoding: Encoding) -> Array:
        count = self.config.decoded
        if encoding.mirror is None:
            return encoding.z[:count]
        half = count // 2
        return jnp.concatenate([encoding.z[: count - half], encoding.mirror[:half]])

    def reference_draws(self, key: Key, encoding: Encoding) -> Array:
        contrast = self.model.contrast
        own_moments = contrast.whitens_draws(encoding)
        return contrasts.sample_reference(key, encoding.z, own_moments, contrast.covariance)

    def log_ratios(self, psi: Tree, z_q: Array, *, params: Params, view: View, z_r: Array):
        """s at those draws of q and of r that the critic sees: [K, B] each.

        Apart, so that the encoder's pull-back leaves r out; what the critic computes of the
        view alone, XLA finds in both and computes once.
        """
        log_ratio, seen = self.model.log_ratio, slice(self.config.critic_samples)
        assert log_ratio is not None  # asked for where there is a critic
        params = params._replace(critic=psi)
        return log_ratio(params, view, z_q[seen]), log_ratio(params, view, z_r[seen])

    def minus_log_contrast(self, draws: Draws) -> Array:
        """−log r(z|x) in nats, [S, B] or [1, B]; its mean, where r has the moments of q."""
        dim = draws.z.shape[-1]
        if self.by_moments:
            return objectives.gaussian_entropy(draws.log_scale, dim)[None]
        return draws.log_scale[None] - log_prior(draws.z_tilde)

    def critic_loss(self, s: tuple[Array, Array], draws: Draws) -> Array:
        """Mean critic loss of (s_q, s_r)."""
        s_q, s_r = s
        if self.as_written:
            s_q = s_q - self.minus_log_contrast(draws)[: len(s_q)] - 1.0  # T
        return jnp.mean(objectives.critic_loss(self.config.critic_loss, s_q, s_r))

    def contrast_loss(self, psi: Tree, x: Array, z: Array) -> Array:
        """−E_q log r_α(z|x), of a learned contrast."""
        return -jnp.mean(contrasts.log_density(z, self.model.contrast.learned(psi, x)))

    def _reconstruction(self, theta: Tree, z: Array, x: Array) -> Array:
        def log_likelihood(z):
            return self.model.log_likelihood(self.model.decode(theta, z), x)

        if self.config.rematerialize == "nothing":
            return jnp.mean(log_likelihood(z))
        one_draw = jax.checkpoint(log_likelihood)
        return jnp.mean(jax.lax.map(lambda z: one_draw(z[None]), z))

    def elbo_terms(self, theta: Tree, draws: Draws, x: Array) -> tuple[Array, Array]:
        """Mean reconstruction, and mean KL(q‖p) less the critic's share E_q[s], in nats."""
        reconstruction = self._reconstruction(theta, draws.decoded, x)
        if draws.kl is not None:
            return reconstruction, jnp.mean(draws.kl)
        entropy = jnp.mean(self.minus_log_contrast(draws))
        return reconstruction, jnp.mean(draws.cross_entropy) - entropy


def _exact_kl(encoding: Encoding) -> Array:
    if encoding.density is None:
        raise ValueError("log_ratio was None, with an encoding that has no density of q")
    if isinstance(encoding.density, Flow):
        assert encoding.log_q is not None  # it comes with a flow
        return encoding.log_q - log_prior(encoding.z)
    return objectives.kl_to_prior(encoding.density)[None]


class Linearisation(NamedTuple):
    """The critic at one ψ: s at the draws of q and of r, [K, B] each, and their pull-back."""

    s: tuple[Array, Array]
    pull: Callable[[tuple[Array, Array]], tuple[Tree, Array]]


def linearise_critic(
    players: Players, psi: Tree, draws: Draws, z_r: Array, params: Params
) -> Linearisation:
    """One forward pass of the critic over the draws of q and of r."""
    assert draws.view is not None  # there is a critic
    log_ratios = partial(players.log_ratios, params=params, view=draws.view, z_r=z_r)
    return Linearisation(*jax.vjp(log_ratios, psi, draws.z_tilde))


def _critic_gradient(
    players: Players, psi: Tree, draws: Draws, at: Linearisation, x: Array
) -> tuple[Tree, Array]:
    """The critic group's gradient, by a pull-back of `at`, and the loss it belongs to."""
    loss, s_bar = jax.value_and_grad(players.critic_loss)(at.s, draws)
    gradient, _ = at.pull(s_bar)
    if players.model.contrast.name == "learned":
        contrast_gradient = jax.grad(players.contrast_loss)(psi, x, draws.z)
        gradient = jax.tree.map(jnp.add, gradient, contrast_gradient)
    return gradient, loss


def shape_gradient(at: Linearisation) -> tuple[Array, Array]:
    """E_q[s] and its z̃-gradient, [S, B, D], by a pull-back of `at`."""
    s_q, s_r = at.s
    of_q = jnp.full_like(s_q, 1.0 / s_q.size)
    return jnp.mean(s_q), at.pull((of_q, jnp.zeros_like(s_r)))[1]


def vae_gradients(
    players: Players,
    theta: Tree,
    draws: Draws,
    pull_draws: Callable[[Draws], tuple[Tree]],
    s_z: Array,
    x: Array,
    weight: Array,
) -> tuple[tuple[Tree, Tree], tuple[Array, Array]]:
    """Gradients of −ELBO in (φ, θ), and its two terms.

    `pull_draws` takes a gradient in the draws to φ's, s_z is the z̃-gradient of E_q[s], and
    `weight` that of the KL divergence.
    """

    def loss(theta, draws):
        reconstruction, kl = players.elbo_terms(theta, draws, x)
        return weight * kl - reconstruction, (reconstruction, kl)

    gradients, terms = jax.grad(loss, argnums=(0, 1), has_aux=True)(theta, draws)
    theta_gradient, draws_bar = gradients
    draws_bar = draws_bar._replace(z_tilde=draws_bar.z_tilde + weight * s_z)
    (phi_gradient,) = pull_draws(draws_bar)
    return (phi_gradient, theta_gradient), terms


def _critic_metrics(loss: Array, s: tuple[Array, Array]) -> Metrics:
    s_q, s_r = s
    return {
        "critic_loss": loss,
        "log_ratio": jnp.mean(s_q),
        "balance": objectives.balance(s_q, s_r),
        "reference_mean_ratio": jnp.mean(jnp.exp(s_r)),
    }


def apply_gradient(
    optimizer: optax.GradientTransformation, gradient: Tree, opt_state: Tree, params: Tree
) -> tuple[Tree, Tree]:
    """One move of an optax transformation: (params, its state)."""
    with jax.numpy_dtype_promotion("standard"):  # optax itself mixes dtypes
        updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


class CriticTurn(NamedTuple):
    """The critic's moves; `mean` is over devices."""

    players: Players
    optimizer: optax.GradientTransformation
    mean: Callable[[Tree], Tree]

    def gradient(
        self, params: Params, draws: Draws, encoding: Encoding, x: Array, key: Key
    ) -> tuple[Tree, Linearisation, Metrics, Callable[[Tree], Linearisation]]:
        """ψ's gradient against reference draws by `key`, at what linearisation, and metrics.

        The last of the four is the same linearisation at another ψ.
        """
        z_r = self.players.reference_draws(key, encoding)
        linearise = partial(linearise_critic, self.players, draws=draws, z_r=z_r, params=params)
        at = linearise(params.critic)
        gradient, loss = _critic_gradient(self.players, params.critic, draws, at, x)
        return gradient, at, _critic_metrics(loss, at.s), linearise

    def move(self, gradient: Tree, opt_state: Tree, psi: Tree) -> tuple[Tree, Tree]:
        """ψ and its optax state after one update."""
        return apply_gradient(self.optimizer, self.mean(gradient), opt_state, psi)

    def extra_steps(self, params: Params, opt_state: Tree, x: Array, key: Key) -> tuple[Tree, Tree]:
        """The critic steps beyond the first, each on fresh noise."""

        def one(carry, key):
            key_q, key_r = jax.random.split(key)
            psi, opt_state = carry
            now = params._replace(critic=psi)
            draws, encoding = self.players.draw(params.encoder, now, key_q, x)
            gradient = self.gradient(now, draws, encoding, x, key_r)[0]
            return self.move(gradient, opt_state, psi), None

        keys = jax.random.split(key, self.players.config.critic_steps - 1)
        return jax.lax.scan(one, (params.critic, opt_state), keys)[0]
