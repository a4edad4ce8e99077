"""`TrainState` and the fused saddle-point step: (state, batch) -> (state, metrics)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from avb_jax import objectives
from avb_jax.config import Config
from avb_jax.data import binarize
from avb_jax.model import Model
from avb_jax.optimizers import Optimizers, averaged_parameters
from avb_jax.players import Players
from avb_jax.saddle import CriticTurn, Metrics, apply_gradient, shape_gradient, vae_gradients
from avb_jax.types import Array, Key, Params, Tree


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


# What runs once is compiled in half the time, if it need not be fast.
COMPILED_TO_RUN_ONCE = {"xla_backend_optimization_level": 0}


class Step(Protocol):
    """(state, batch) -> (state, metrics); with a mean over `axis_name` where that is given."""

    def __call__(
        self, state: TrainState, batch: Array, /, axis_name: str | None = None
    ) -> tuple[TrainState, Metrics]: ...


def init_state(model: Model, optimizers: Optimizers, key: Key) -> TrainState:
    """A fresh state: `model.init` with one half of the key, the other for training."""

    def init(key: Key) -> TrainState:
        init_key, run_key = jax.random.split(key)
        params = model.init(init_key)
        opt_state = (
            optimizers.vae.init((params.encoder, params.decoder)),
            optimizers.critic.init(params.critic),
        )
        return TrainState(jnp.zeros([], jnp.int32), run_key, params, opt_state)

    within = isinstance(key, jax.core.Tracer)  # another program, which has options of its own
    return jax.jit(init, compiler_options=None if within else COMPILED_TO_RUN_ONCE)(key)


def _kl_weight(config: Config, step: Array, dtype) -> Array:
    if not config.kl_warmup_steps:
        return jnp.ones([], dtype)
    return jnp.minimum(1.0, (step + 1).astype(dtype) / config.kl_warmup_steps)


def _elbo_metrics(reconstruction: Array, kl: Array) -> Metrics:
    return {
        "elbo_estimate": reconstruction - kl,
        "reconstruction": reconstruction,
        "kl_estimate": kl,
    }


def make_train_step(model: Model, optimizers: Optimizers, config: Config) -> Step:
    """The fused saddle-point step (paper, algorithm 1), a pure function.

    Encoder, decoder and critic run forward once on z_q; the critic's ψ-gradient and the
    encoder's z̃-gradient are two pull-backs of one linearisation. With
    `update="alternating"` ψ moves first and the critic is linearised again. `critic_steps`
    beyond the first are taken before, on fresh noise. With `microbatches` the gradients are
    means over so many parts of the batch, of which one at a time is in memory.

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
    players = Players(model, config)
    has_critic = model.log_ratio is not None
    if has_critic:
        objectives.warn_if_as_written(config.critic_loss)

    def step(state: TrainState, batch: Array, axis_name: str | None = None):
        def mean(tree):
            return jax.lax.pmean(tree, axis_name) if axis_name else tree

        key = jax.random.fold_in(state.key, state.step)
        if axis_name:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        key_x, key_q, key_r, key_extra = jax.random.split(key, 4)
        x = binarize(key_x, batch, config.binarization) if batch.dtype == jnp.uint8 else batch
        params, (vae_state, critic_state) = state.params, state.opt_state
        critic = CriticTurn(players, optimizers.critic, mean)
        if has_critic and config.critic_steps > 1:
            psi, critic_state = critic.extra_steps(params, critic_state, x, key_extra)
            params = params._replace(critic=psi)
        weight = _kl_weight(config, state.step, x.dtype)
        gradients = partial(_gradients, critic, params, critic_state, weight)
        of_vae, of_critic, metrics = _in_microbatches(
            gradients, config.microbatches, x, key_q, key_r
        )
        (phi, theta), vae_state = apply_gradient(
            optimizers.vae, mean(of_vae), vae_state, (params.encoder, params.decoder)
        )
        psi = params.critic
        if has_critic:
            psi, critic_state = critic.move(of_critic, critic_state, psi)
        params = Params(phi, theta, psi)
        state = TrainState(state.step + 1, state.key, params, (vae_state, critic_state))
        return state, mean(metrics)

    return step


def _gradients(
    critic: CriticTurn, params: Params, critic_state: Tree, weight: Array,
    x: Array, key_q: Key, key_r: Key,
):  # fmt: skip
    """The gradients of (φ, θ) and of ψ over these data points, and metrics."""
    players = critic.players
    draw = partial(players.draw, params=params, key=key_q, x=x)
    draws, pull_draws, encoding = jax.vjp(draw, params.encoder, has_aux=True)
    of_critic: Tree = {}
    metrics: Metrics = {}
    s_mean, s_gradient = jnp.zeros([], x.dtype), jnp.zeros_like(draws.z)
    if players.model.log_ratio is not None:
        of_critic, at, metrics, linearise = critic.gradient(params, draws, encoding, x, key_r)
        if players.config.update == "alternating":
            at = linearise(critic.move(of_critic, critic_state, params.critic)[0])
        s_mean, s_gradient = shape_gradient(at)
    of_vae, (reconstruction, kl) = vae_gradients(
        players, params.decoder, draws, pull_draws, s_gradient, x, weight
    )
    return of_vae, of_critic, {**_elbo_metrics(reconstruction, kl + s_mean), **metrics}


def _in_microbatches(gradients: Callable, count: int, x: Array, *keys: Key):
    """The mean of `gradients(x, *keys)` over that many parts of the batch, one after another.

    Part m has every `count`-th data point from m on, so that each device has a share of it.
    """
    if count == 1:
        return gradients(x, *keys)
    parts = jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)
    given = (parts, *(jax.random.split(key, count) for key in keys))
    first = jax.eval_shape(gradients, *jax.tree.map(lambda leaf: leaf[0], given))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

    def add(total, given):
        return jax.tree.map(jnp.add, total, gradients(*given)), None

    total, _ = jax.lax.scan(add, zeros, given)
    return jax.tree.map(lambda leaf: leaf / count, total)


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


@jax.jit
def all_finite(tree: Tree) -> Array:
    """Whether every number of every leaf is finite."""
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
