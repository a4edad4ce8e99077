"""The saddle-point step as two separate updates, each with a forward pass of its own."""

from functools import partial

import jax
import jax.numpy as jnp

import avb_jax as avb
from avb_jax import data
from avb_jax.players import Players
from avb_jax.saddle import CriticTurn, apply_gradient, vae_gradients
from avb_jax.step import Step, TrainState


def make_two_updates(model: avb.Model, optimizers: avb.Optimizers, config: avb.Config) -> Step:
    """The critic's update, then that of encoder and decoder against the critic it has become.

    The same numbers as the fused step's with `update="alternating"`.
    """
    players = Players(model, config)

    def step(state: TrainState, batch):
        key = jax.random.fold_in(state.key, state.step)
        key_x, key_q, key_r, _ = jax.random.split(key, 4)
        images = batch.dtype == jnp.uint8
        x = data.binarize(key_x, batch, config.binarization) if images else batch
        params, (vae_state, critic_state) = state.params, state.opt_state

        draws, encoding = players.draw(params.encoder, params, key_q, x)
        turn = CriticTurn(players, optimizers.critic, mean=lambda tree: tree)
        gradient, _, metrics, _ = turn.gradient(params, draws, encoding, x, key_r)
        psi, critic_state = turn.move(gradient, critic_state, params.critic)

        # Without the barrier XLA would find the two forward passes alike, and do one.
        params, x = jax.lax.optimization_barrier((params._replace(critic=psi), x))
        draw = partial(players.draw, params=params, key=key_q, x=x)
        draws, pull_draws, _ = jax.vjp(draw, params.encoder, has_aux=True)
        seen = slice(config.critic_samples)

        def share(z_tilde):
            return jnp.mean(model.log_ratio(params, draws.view, z_tilde[seen]))

        s_mean, s_z = jax.value_and_grad(share)(draws.z_tilde)
        of_vae, (reconstruction, kl) = vae_gradients(
            players, params.decoder, draws, pull_draws, s_z, x, jnp.ones([], x.dtype)
        )
        (phi, theta), vae_state = apply_gradient(
            optimizers.vae, of_vae, vae_state, (params.encoder, params.decoder)
        )
        elbo = {"elbo_estimate": reconstruction - kl - s_mean, "reconstruction": reconstruction}
        params = avb.Params(phi, theta, params.critic)
        state = TrainState(state.step + 1, state.key, params, (vae_state, critic_state))
        return state, {**elbo, "kl_estimate": kl + s_mean, **metrics}

    return step
