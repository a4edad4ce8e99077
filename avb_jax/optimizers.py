"""Two optax transformations, one for each player, and the averaged parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from avb_jax.config import Config
from avb_jax.types import Array, Tree


class Optimizers(NamedTuple):
    """Any optax transformations serve.

    Attributes:
        vae: of encoder and decoder (φ, θ).
        critic: of the critic group (ψ).
    """

    vae: optax.GradientTransformation
    critic: optax.GradientTransformation


class AverageState(NamedTuple):
    """State of `average_parameters`.

    Attributes:
        count: steps taken.
        average: averaged parameters.
    """

    count: Array  # type: ignore[assignment]  # a tuple's own name; checkpoints have it
    average: Tree


def average_parameters(decay: float) -> optax.GradientTransformation:
    """Tracks an exponential moving average of the parameters; last in an `optax.chain`.

    Updates pass through unchanged. The decay is min(decay, (1 + t)/(10 + t)) at step t, so
    that the average forgets the first steps quickly (as TensorFlow's moving averages did).
    """

    def init(params):
        return AverageState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates, state, params=None):
        count = state.count + 1
        t = count.astype(jnp.float32)
        rate = 1.0 - jnp.minimum(decay, (1.0 + t) / (10.0 + t))
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: a + rate.astype(a.dtype) * (p - a), state.average, new)
        return updates, AverageState(count, average)

    return optax.GradientTransformation(init, update)


def averaged_parameters(opt_state: Tree, params: Tree) -> Tree:
    """The average that `average_parameters` keeps in `opt_state`; `params` where none is kept."""

    def is_average(node):
        return isinstance(node, AverageState)

    found = [n for n in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(n)]
    return found[0].average if found else params


def learning_rate_schedule(config: Config, name: str, peak: float) -> optax.Schedule:
    """Linear warm-up to `peak`, then `name`: constant, or a cosine to zero at `num_steps`."""
    if name == "cosine":
        decay_steps = max(1, config.num_steps - config.warmup_steps)
        after = optax.cosine_decay_schedule(peak, decay_steps)
    else:
        after = optax.constant_schedule(peak)
    if config.warmup_steps == 0:
        return after
    least = peak / (config.warmup_steps + 1)  # not nothing: the first step moves too
    warmup = optax.linear_schedule(least, peak, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def _adam(
    config: Config, schedule: optax.Schedule, updates_per_step: int = 1, weight_decay: float = 0.0
):
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []

    # The schedule counts steps of training, of which the critic may take several at once.
    def rate(count: Array) -> Array:
        return schedule(count // updates_per_step)

    if not weight_decay:  # Adam's own state, which saved runs have
        return [*clip, optax.adam(rate)]
    return [*clip, optax.adamw(rate, weight_decay=weight_decay, mask=_kernels)]


def _kernels(params: Tree) -> Tree:
    """Which of the parameters multiply, rather than add."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def build_optimizers(config: Config) -> Optimizers:
    """Adam for both players, with the config's schedules, clipping, weight decay and averaging."""
    average = [average_parameters(config.ema_decay)] if config.ema_decay else []
    rate = learning_rate_schedule(config, config.schedule, config.learning_rate)
    critic_rate = learning_rate_schedule(
        config, config.critic_schedule or config.schedule, config.critic_learning_rate
    )
    of_vae = _adam(config, rate, weight_decay=config.weight_decay)
    of_critic = _adam(config, critic_rate, config.critic_steps)
    return Optimizers(vae=optax.chain(*of_vae, *average), critic=optax.chain(*of_critic))
