"""The saddle-point problem of one batch: the two players' gradients and moves."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from avb_jax import objectives
from avb_jax.players import Draws, Players
from avb_jax.types import Array, Encoding, Key, Params, Tree

Metrics = dict[str, Array]


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
