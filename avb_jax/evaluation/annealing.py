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
from avb_jax.evaluation.weights import check_counts
from avb_jax.types import Array, Gaussian, Key, Tree

SCHEDULES = ("linear", "sigmoidal", "adaptive")
# How much of each start density is the prior's.
PRIOR_SHARE = {"defensive": 0.5, "student": 0.0, "gaussian": 0.0, "prior": 1.0}
ACCEPTANCE = 0.65  # that step sizes are tuned to
PILOT_CHAINS, PILOT_TEMPERATURES, PILOT_MOVES = 4, 32, 6
OFFERED = 8  # draws of the start, to a chain that may jump
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
        start: `student` or `gaussian`, fitted to draws of q(z|x); the `prior`; or `defensive`, the
            mixture of the prior and the Student distribution in equal parts, whose density is
            small nowhere that the posterior's is large (Hesterberg 1995).
        num_fit: draws of q(z|x) that give the start, and the scale of the moves.
        jump_interval: every so many temperatures a chain is offered a draw of the start to go to:
            how it comes to a mode that q(z|x) has not; 0: never.
    """

    num_temperatures: int = 1000
    num_chains: int = 16
    num_leapfrog: int = 3
    schedule: str = "adaptive"
    start: str = "defensive"
    num_fit: int = 256
    jump_interval: int = 5


DEFAULTS = AISSettings()
# The authors' (paper, section 6.2; 2,560 test images, dynamic binarisation).
MESCHEDER2017 = AISSettings(
    num_chains=8, num_leapfrog=11, schedule="linear", start="gaussian", jump_interval=0
)


def check_settings(settings: AISSettings) -> None:
    """Raises ValueError for settings that are not allowed."""
    counts = {name: getattr(settings, name) for name in ("num_chains", "num_leapfrog", "num_fit")}
    check_counts(**counts)
    check_counts(least=0, jump_interval=settings.jump_interval)
    check_counts(least=2, num_temperatures=settings.num_temperatures)
    for name, allowed in (("schedule", SCHEDULES), ("start", tuple(PRIOR_SHARE))):
        if getattr(settings, name) not in allowed:
            raise ValueError(
                f"{name} was {getattr(settings, name)!r}; allowed are {', '.join(allowed)}"
            )


class Target(NamedTuple):
    """One data point, in the coordinates u in which the fitted draws are N(0, I): z = m + L u.

    Attributes:
        start: [D] -> log r, nats.
        ratio: [D] -> log p(x, z) − log r.
        draw: key -> u ~ r.
        locate: z [D] -> u.
        place: u [..., D] -> z.
    """

    start: Callable[[Array], Array]
    ratio: Callable[[Array], Array]
    draw: Callable[[Key], Array]
    locate: Callable[[Array], Array]
    place: Callable[[Array], Array]


def build_target(model: Any, params: Tree, key: Key, x: Array, settings: AISSettings) -> Target:
    """The target for one x [...]; `key` draws from q(z|x) what fits its coordinates."""
    draws = model.sample_posterior(params, key, x[None], settings.num_fit)
    heavy = settings.start != "gaussian"
    degrees = DEGREES_OF_FREEDOM if heavy else math.inf
    inflation = INFLATION if heavy else 1.0
    proposal = fit_proposal(draws, inflation=inflation, degrees_of_freedom=degrees)
    unit = Gaussian(proposal.mean, proposal.scale_tril)
    dim = draws.shape[-1]
    log_scale = contrasts.log_scale(unit, draws)[0]
    # Once: solves within the moves, side by side, deadlock XLA's two threads on a CPU of two cores.
    eye = jnp.eye(dim, dtype=draws.dtype)
    inverse = jax.scipy.linalg.solve_triangular(unit.scale_tril[0], eye, lower=True)

    def place(u):
        return contrasts.unwhiten(u.reshape(-1, 1, dim), unit).reshape(u.shape)

    def prior(u):
        return log_prior(place(u))

    def fitted(u):
        return log_density_standard(jnp.sum(jnp.square(u)), dim, degrees) - log_scale

    share = PRIOR_SHARE[settings.start]

    def start(u):
        if share in (0.0, 1.0):
            return prior(u) if share else fitted(u)
        return jnp.logaddexp(prior(u) + math.log(share), fitted(u) + math.log1p(-share))

    def ratio(u):
        return model.log_joint(params, x[None], place(u)[None, None])[0, 0] - start(u)

    def locate(z):
        return jnp.einsum("de,e->d", inverse, z - unit.mean[0])

    def draw(key):
        which, key = jax.random.split(key)
        of_prior = jax.random.bernoulli(which, share)
        standard = jax.random.normal(key, (dim,), draws.dtype)
        return locate(jnp.where(of_prior, standard, sample_proposal(proposal, key)[0]))

    return Target(start, ratio, draw, locate, place)


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
    """One of OFFERED draws of the start, or where the chain is, as their weights under π_β are.

    It leaves π_β as it is (iterated sampling and importance resampling, Andrieu, Lee and Vihola
    2018), and is the move from one mode to another.
    """
    key_draw, key_choose = jax.random.split(key)
    offered = jax.vmap(target.draw)(jax.random.split(key_draw, OFFERED))
    offered = jnp.concatenate([offered, chain.u[None]])
    ratios = jnp.append(jax.vmap(target.ratio)(offered[:-1]), chain.ratio)
    chosen = jax.random.categorical(key_choose, beta * ratios)
    return begin(target, offered[chosen])


def pilot(target: Target, key: Key, leapfrog: int) -> tuple[Array, Array, Array]:
    """(β, tuned step size, standard deviation of log p(x, z)/r), each [PILOT_TEMPERATURES]."""
    key_draw, key_move = jax.random.split(key)
    chains = jax.vmap(lambda k: begin(target, target.draw(k)))(
        jax.random.split(key_draw, PILOT_CHAINS)
    )
    dtype = chains.u.dtype
    betas = jnp.linspace(0.0, 1.0, PILOT_TEMPERATURES + 1, dtype=dtype)[1:] ** 3

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
        return carry, (jnp.exp(jnp.mean(log_steps)), _spread(ratios))

    keys = jax.random.split(key_move, PILOT_TEMPERATURES)
    first = jnp.asarray(math.log(FIRST_STEP), dtype)
    _, (steps, spreads) = lax.scan(one_temperature, (chains, first), (betas, keys))
    return betas, steps, spreads


def _spread(ratios: Array) -> Array:
    """Standard deviation; what is not finite, outside a hard support, counts as the least that is.

    Zero where nothing is finite.
    """
    finite = jnp.isfinite(ratios)
    least = jnp.min(ratios, where=finite, initial=jnp.inf)
    return jnp.std(jnp.where(finite, ratios, jnp.where(jnp.any(finite), least, 0.0)))


def schedule(name: str, num_temperatures: int, betas: Array, spreads: Array) -> Array:
    """β_0 = 0 … β_T = 1, [T + 1]; the pilot's β and spreads serve the `adaptive` one."""
    t = jnp.linspace(0.0, 1.0, num_temperatures + 1, dtype=betas.dtype)
    if name == "linear":
        return t
    if name == "sigmoidal":
        low, high = jax.nn.sigmoid(-STEEPNESS), jax.nn.sigmoid(STEEPNESS)
        return (jax.nn.sigmoid(STEEPNESS * (2.0 * t - 1.0)) - low) / (high - low)
    largest = jnp.max(spreads)
    spreads = jnp.where(largest > 0.0, jnp.maximum(spreads, 0.05 * largest), 1.0)
    betas = jnp.concatenate([jnp.zeros(1, betas.dtype), betas])
    travelled = jnp.append(betas[:1], jnp.cumsum(spreads * jnp.diff(betas)))
    travelled = travelled / travelled[-1]
    return jnp.interp(t, travelled, betas).at[-1].set(1.0)
