"""The last layers of an implicit posterior: Hamiltonian transitions that leave p(z) as it is.

A draw that has been moved by a Markov chain has a density that nobody can write down, which is all
that adversarial variational Bayes asks for (Li, Turner and Liu, "Approximate Inference with
Amortised MCMC", arXiv 1702.08343). Each transition brings q nearer to p, KL(q‖p) never rises, and
what it cannot do is go from one mode to another far away: that is the sampler's part.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from avb_jax.types import Array, Key

ACCEPTANCE, GAIN, ROUNDS = 0.8, 1.0, 40  # that steps are tuned to; Robbins–Monro; pilot moves
SHORTEST = 0.01  # of the tuned step: each transition has its own, for scales that vary over z
FARTHEST = 20.0  # median deviations of log p below its median, from which on a draw is astray
FAMILIAR, STRIDE = 0.25, 5  # correlation below which a start is forgotten; moves between looks


class Transitions(NamedTuple):
    """How draws are moved.

    Attributes:
        step_size: [], in units of q's standard deviations.
        number: of them.
        leapfrog: steps of each.
    """

    step_size: Array
    number: int
    leapfrog: int


def _move(log_density: Callable, u: Array, step_size: Array, key: Key, leapfrog: int):
    from blackjax.mcmc import hmc  # here: importing the package stays quick

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = hmc.init(u, log_density)
        kernel = hmc.build_kernel()
        state, info = kernel(key, state, log_density, step_size, jnp.ones_like(u), leapfrog)
    return state.position, info.acceptance_rate


def _move_all(log_density: Callable, u: Array, longest: Array, key: Key, leapfrog: int):
    """One transition of each of [n, D], with step sizes between SHORTEST and 1 of the longest."""
    keys = jax.random.split(key, len(u) + 1)
    shares = SHORTEST ** jax.random.uniform(keys[0], (len(u),), u.dtype)
    move = partial(_move, log_density, leapfrog=leapfrog)
    return jax.vmap(move)(u, longest * shares, keys[1:])


def settle(log_density: Callable, u: Array, key: Key) -> Array:
    """Draws [n, D], each that is astray in the place of which stands another of them.

    Where p is so small that no posterior has a draw, gradients are so large that no move from there
    is accepted; and what a sampler says of the rarest noise may be anything.
    """
    log_p = jax.vmap(log_density)(u)
    median = jnp.median(log_p)
    least = median - FARTHEST * (1.0 + jnp.median(jnp.abs(log_p - median)))
    fine = log_p >= least
    others = jax.random.categorical(key, jnp.where(fine, 0.0, -jnp.inf), shape=fine.shape)
    return jnp.where(fine[:, None], u, u[others])


def tune(log_density: Callable, u: Array, key: Key, leapfrog: int) -> tuple[Array, Array]:
    """Draws [n, D], moved, and the step size at which moves are accepted as often as ACCEPTANCE."""

    def one(carry, given):
        u, log_step = carry
        key, number = given
        u, acceptance = _move_all(log_density, u, jnp.exp(log_step), key, leapfrog)
        gain = GAIN / jnp.sqrt(1.0 + number)
        return (u, log_step + gain * (jnp.mean(acceptance) - ACCEPTANCE)), log_step

    keys = jax.random.split(key, ROUNDS)
    start = (u, jnp.zeros([], u.dtype) - 0.7)
    (u, _), log_steps = jax.lax.scan(one, start, (keys, jnp.arange(ROUNDS, dtype=u.dtype)))
    return u, jnp.exp(jnp.mean(log_steps[ROUNDS // 2 :]))


def transit(log_density: Callable, u: Array, key: Key, transitions: Transitions):
    """Draws [n, D], settled and moved by all the transitions, and their mean acceptance, [].

    Args:
        log_density: [D] -> log p, nats, in coordinates in which q has unit covariance.
    """
    if not transitions.number:
        return u, jnp.ones([], u.dtype)
    keys = jax.random.split(key)

    def one(u, key):
        return _move_all(log_density, u, transitions.step_size, key, transitions.leapfrog)

    settled = settle(log_density, u, keys[0])
    u, acceptance = jax.lax.scan(one, settled, jax.random.split(keys[1], transitions.number))
    return u, jnp.mean(acceptance)


def number_needed(
    log_density: Callable, u: Array, step_size: Array, key: Key, leapfrog: int, most: int
) -> Array:
    """How many transitions draws [n, D] need to forget where they were: four times as many as it
    takes all coordinates, and their squares, to correlate by less than FAMILIAR with the start's.

    [], at most `most`: draws of several modes never forget theirs.
    """

    def features(u):
        both = jnp.concatenate([u, jnp.square(u)], axis=1)
        centred = both - jnp.mean(both, axis=0, keepdims=True)
        return centred / jnp.std(both, axis=0, keepdims=True)

    first = features(u)

    def familiar(carry):
        u, count = carry
        correlation = jnp.max(jnp.abs(jnp.mean(first * features(u), axis=0)))
        return (correlation > FAMILIAR) & (4 * count < most)

    def stride(carry):
        u, count = carry
        transitions = Transitions(step_size, STRIDE, leapfrog)
        u, _ = transit(log_density, u, jax.random.fold_in(key, count), transitions)
        return u, count + STRIDE

    _, count = jax.lax.while_loop(familiar, stride, (u, jnp.zeros([], jnp.int32)))
    return jnp.minimum(4 * count, most)
