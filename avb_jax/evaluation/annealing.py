"""What annealed importance sampling is made of: a target, Hamiltonian moves, pilots, schedules.

Chains move in the coordinates in which draws of q(z|x) have zero mean and unit covariance, by
BlackJAX's Hamiltonian Monte Carlo, towards π_β ∝ r (p(x, ·)/r)^β, r the start density.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from avb_jax import contrast as contrasts
from avb_jax.densities import log_prior
from avb_jax.evaluation.proposal import (
    DEGREES_OF_FREEDOM,
    INFLATION,
    fit_proposal,
    log_density_standard,
    sample_proposal,
)
from avb_jax.types import Array, Gaussian, Key, Tree

SCHEDULES = ("linear", "sigmoidal", "adaptive")
STARTS = ("student", "gaussian", "prior")
ACCEPTANCE = 0.65  # that step sizes are tuned to
PILOT_CHAINS, PILOT_TEMPERATURES, PILOT_MOVES = 4, 32, 6
FIRST_STEP, GAIN = 0.5, 0.7  # of the tuned step size, in units of the start's scale; Robbins–Monro
STEEPNESS = 4.0  # of the sigmoidal schedule (Grosse et al., section 5)


class AISSettings(NamedTuple):
    """How to anneal; hashable.

    Attributes:
        num_temperatures: T, steps from β = 0 to 1, with T − 1 moves between them.
        num_chains: K, for each x.
        num_leapfrog: steps of each move; the cost is K T times as many gradients of log p(x, z).
        schedule: `linear` in β; `sigmoidal`, slow at both ends; `adaptive`, with equal conditional
            effective sample sizes of the steps, by what pilot chains saw (Zhou, Johansen and Aston
            2016, to first order: β moves inversely to the standard deviation of log p(x, z)/r).
        start: `student` or `gaussian`, fitted to draws of q(z|x); or the `prior`.
        num_fit: draws of q(z|x) that give the start, and the scale of the moves.
        jump_interval: every so many temperatures a chain is offered a draw of the prior, or of the
            start, to go to: how it comes to a mode that q(z|x) has not; 0: never.
    """

    num_temperatures: int = 1000
    num_chains: int = 16
    num_leapfrog: int = 3
    schedule: str = "linear"
    start: str = "student"
    num_fit: int = 256
    jump_interval: int = 5


DEFAULTS = AISSettings()
# The authors' (paper, section 6.2; 2,560 test images, dynamic binarisation).
MESCHEDER2017 = AISSettings(
    num_temperatures=1000, num_chains=8, num_leapfrog=11, start="gaussian", jump_interval=0
)


class Target(NamedTuple):
    """One data point, in the coordinates u in which the fitted draws are N(0, I): z = m + L u.

    Attributes:
        start: [D] -> log r, nats.
        ratio: [D] -> log p(x, z) − log r.
        draw: key -> u ~ r.
        locate: z [D] -> u.
        jump: key -> u, of the prior or of the start, as often.
        jump_density: u [D] -> its log density, nats, up to a constant.
    """

    start: Callable[[Array], Array]
    ratio: Callable[[Array], Array]
    draw: Callable[[Key], Array]
    locate: Callable[[Array], Array]
    jump: Callable[[Key], Array]
    jump_density: Callable[[Array], Array]


def build_target(model: Any, params: Tree, key: Key, x: Array, settings: AISSettings) -> Target:
    """The target for one x [...]; `key` draws from q(z|x) what fits its coordinates."""
    draws = model.sample_posterior(params, key, x[None], settings.num_fit)
    degrees = DEGREES_OF_FREEDOM if settings.start == "student" else math.inf
    inflation = INFLATION if settings.start == "student" else 1.0
    proposal = fit_proposal(draws, inflation=inflation, degrees_of_freedom=degrees)
    unit = Gaussian(proposal.mean, proposal.scale_tril)
    dim, from_prior = draws.shape[-1], settings.start == "prior"
    log_scale = contrasts.log_scale(unit, draws)[0]

    def place(u):
        return contrasts.unwhiten(u[None, None], unit)

    def prior(u):
        return log_prior(place(u))[0, 0]

    def fitted(u):
        return log_density_standard(jnp.sum(jnp.square(u)), dim, degrees) - log_scale

    start = prior if from_prior else fitted

    def ratio(u):
        return model.log_joint(params, x[None], place(u))[0, 0] - start(u)

    def locate(z):
        return contrasts.whiten(z[None, None], unit)[0, 0]

    def draw_prior(key):
        return locate(jax.random.normal(key, (dim,), draws.dtype))

    def draw_fitted(key):
        return locate(sample_proposal(proposal, key)[0])

    def draw(key):
        return draw_prior(key) if from_prior else draw_fitted(key)

    def jump(key):
        which, key = jax.random.split(key)
        return jnp.where(jax.random.bernoulli(which), draw_prior(key), draw_fitted(key))

    def jump_density(u):
        return jnp.logaddexp(prior(u), fitted(u))

    return Target(start, ratio, draw, locate, jump, jump_density)


class Chain(NamedTuple):
    """Where a chain is: u [D], and log p(x, z)/r there with its gradient."""

    u: Array
    ratio: Array
    gradient: Array


def begin(target: Target, u: Array) -> Chain:
    """A chain at u [D]."""
    return Chain(u, *jax.value_and_grad(target.ratio)(u))


def move(target: Target, chain: Chain, beta: Array, step_size: Array, key: Key, leapfrog: int):
    """One move of Hamiltonian Monte Carlo under π_β, β > 0: (chain, acceptance).

    What it evaluates of π_β gives log p(x, z)/r at the end too, by division by β.
    """
    from blackjax.mcmc import hmc  # here, so that importing the package stays quick

    log_r, slope = jax.value_and_grad(target.start)(chain.u)
    state = hmc.HMCState(chain.u, log_r + beta * chain.ratio, slope + beta * chain.gradient)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state, info = hmc.build_kernel()(
            key,
            state,
            lambda u: target.start(u) + beta * target.ratio(u),
            step_size,
            jnp.ones_like(chain.u),
            leapfrog,
        )
    log_r, slope = jax.value_and_grad(target.start)(state.position)
    ratio = (state.logdensity - log_r) / beta
    return Chain(state.position, ratio, (state.logdensity_grad - slope) / beta), (
        info.acceptance_rate
    )


def jump(target: Target, chain: Chain, beta: Array, key: Key) -> Chain:
    """One independence move of Metropolis and Hastings under π_β, anywhere in z."""
    key_u, key_accept = jax.random.split(key)
    offered = begin(target, target.jump(key_u))

    def log_weight(chain):
        return target.start(chain.u) + beta * chain.ratio - target.jump_density(chain.u)

    gain = log_weight(offered) - log_weight(chain)
    accepted = jnp.log(jax.random.uniform(key_accept)) < gain
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), offered, chain)


def pilot(target: Target, key: Key, leapfrog: int) -> tuple[Array, Array, Array]:
    """(β, tuned step size, standard deviation of log p(x, z)/r), each [PILOT_TEMPERATURES]."""
    betas = jnp.linspace(0.0, 1.0, PILOT_TEMPERATURES + 1)[1:]
    key_draw, key_move = jax.random.split(key)
    chains = jax.vmap(lambda k: begin(target, target.draw(k)))(
        jax.random.split(key_draw, PILOT_CHAINS)
    )

    def one_move(carry, key, beta):
        chains, log_step = carry
        keys = jax.random.split(key, PILOT_CHAINS)
        one = partial(move, target, leapfrog=leapfrog)
        chains, acceptance = jax.vmap(one, (0, None, None, 0))(
            chains, beta, jnp.exp(log_step), keys
        )
        return (chains, log_step + GAIN * (jnp.mean(acceptance) - ACCEPTANCE)), (
            chains.ratio, log_step,
        )  # fmt: skip

    def one_temperature(carry, given):
        beta, key = given
        keys = jax.random.split(key, PILOT_MOVES)
        carry, (ratios, log_steps) = lax.scan(lambda c, k: one_move(c, k, beta), carry, keys)
        return carry, (jnp.exp(jnp.mean(log_steps)), jnp.std(ratios))

    keys = jax.random.split(key_move, PILOT_TEMPERATURES)
    _, (steps, spreads) = lax.scan(
        one_temperature, (chains, jnp.log(jnp.float32(FIRST_STEP))), (betas, keys)
    )
    return betas, steps, spreads


def schedule(name: str, num_temperatures: int, betas: Array, spreads: Array) -> Array:
    """β_0 = 0 … β_T = 1, [T + 1]; the pilot's β and spreads serve the `adaptive` one."""
    t = jnp.linspace(0.0, 1.0, num_temperatures + 1)
    if name == "linear":
        return t
    if name == "sigmoidal":
        low, high = jax.nn.sigmoid(-STEEPNESS), jax.nn.sigmoid(STEEPNESS)
        return (jax.nn.sigmoid(STEEPNESS * (2.0 * t - 1.0)) - low) / (high - low)
    spreads = jnp.maximum(spreads, 0.05 * jnp.max(spreads))
    travelled = jnp.concatenate([jnp.zeros(1), jnp.cumsum(spreads * jnp.diff(betas, prepend=0.0))])
    travelled = travelled / travelled[-1]
    return jnp.interp(t, travelled, jnp.concatenate([jnp.zeros(1), betas])).at[-1].set(1.0)
