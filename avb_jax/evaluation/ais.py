"""log p(x) by annealed importance sampling (AIS): bounds from below, and, of simulated x, above.

Neal, "Annealed importance sampling", Statistics and Computing 2001. Chains of Hamiltonian Monte
Carlo (BlackJAX's) are led from a start density r to the posterior through
π_β ∝ r (p(x, ·)/r)^β, β from 0 to 1. The weight w = Π_t (p(x, z_t)/r(z_t))^(β_{t+1} − β_t) has mean
p(x), so that log mean w is a lower bound of log p(x) in expectation. Led backwards from an exact
draw of the posterior, known where x was simulated from the model, the mean of 1/w is 1/p(x), and
the bound is an upper one (Grosse, Ghahramani and Adams, arXiv 1511.02543): bidirectional Monte
Carlo. Step sizes are tuned by pilot chains beforehand, for each x and β: those that are weighted do
not adapt, and the bounds stay bounds. Their gradient is by Fisher's identity, ∇ log p(x) =
E ∇ log p(x, z) under the posterior, of the chains' ends and by their weights.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from avb_jax.evaluation.annealing import (
    DEFAULTS,
    AISSettings,
    Chain,
    Target,
    begin,
    build_target,
    check_settings,
    jump,
    move,
    pilot,
    schedule,
)
from avb_jax.evaluation.batches import Found, Kept, in_batches
from avb_jax.evaluation.weights import mean_weight
from avb_jax.types import Array, Key, Tree


class AISResult(NamedTuple):
    """What annealed importance sampling says of each data point.

    Attributes:
        log_likelihood: [B], nats; a lower bound in expectation, an upper one from exact draws.
        effective_sample_size: [B], of the chains' weights, between 1 and K.
        acceptance: [B], of the chains' moves, on average.
    """

    log_likelihood: Array
    effective_sample_size: Array
    acceptance: Array


def _anneal(target: Target, chain: Chain, betas: Array, steps: Array, key: Key, s: AISSettings):
    """Σ_t (β_{t+1} − β_t) log(p(x, z_t)/r(z_t)) along a chain, nats, its end, mean acceptance.

    z_t is where the chain is after a move under π of β_t; `betas` rise or fall, and end at 0 or 1.
    """

    def one(carry, given):
        chain, log_w = carry
        beta, before, step, key, jumps = given
        log_w = log_w + (beta - before) * chain.ratio
        key_move, key_jump = jax.random.split(key)
        chain, acceptance = move(target, chain, beta, step, key_move, s.num_leapfrog)
        if s.jump_interval:
            chain = lax.cond(jumps, lambda c: jump(target, c, beta, key_jump), lambda c: c, chain)
        return (chain, log_w), acceptance

    inner = betas[1:-1]
    keys = jax.random.split(key, len(inner))
    jumps = jnp.arange(len(inner)) % max(1, s.jump_interval) == 0
    start = (chain, jnp.zeros([], chain.u.dtype))
    (chain, log_w), acceptance = lax.scan(one, start, (inner, betas[:-2], steps, keys, jumps))
    log_w = log_w + (betas[-1] - betas[-2]) * chain.ratio
    return log_w, chain.u, jnp.mean(acceptance)


def _of_one(model, params: Tree, key: Key, x: Array, z: Array | None, settings: AISSettings):
    """AIS for one x; backwards from z, an exact draw of its posterior, where that is given."""
    key_fit, key_pilot, key_start, key_move = jax.random.split(key, 4)
    held = lax.stop_gradient(params)
    target = build_target(model, held, key_fit, x, settings)
    at, steps, spreads = pilot(target, key_pilot, settings.num_leapfrog)
    betas = schedule(settings.schedule, settings.num_temperatures, at, spreads)
    if z is not None:
        betas = betas[::-1]
    steps = jnp.interp(betas[1:-1], at, steps)

    def one_chain(key_start, key_move):
        u = target.draw(key_start) if z is None else target.locate(z)
        return _anneal(target, begin(target, u), betas, steps, key_move, settings)

    keys = (jax.random.split(k, settings.num_chains) for k in (key_start, key_move))
    log_w, ends, acceptance = jax.vmap(one_chain)(*keys)
    chains = settings.num_chains
    mean = mean_weight(lambda index: log_w[index][:, None], chains, chains)
    log_mean, effective = mean.log_likelihood[0], mean.effective_sample_size[0]
    # A chain that ended where p(x, z) is 0 has no weight; all softmax is NaN where each did.
    softmax = jnp.nan_to_num(jax.nn.softmax(log_w))
    at, weights = (target.place(ends), softmax) if z is None else (z[None], 1.0)
    log_joint = model.log_joint(params, x[None], at[:, None])[:, 0]
    difference = log_joint - lax.stop_gradient(log_joint)  # zero
    by_fisher = jnp.sum(weights * jnp.where(jnp.isfinite(log_joint), difference, 0.0))
    bound = (log_mean if z is None else -log_mean) + by_fisher
    return AISResult(bound, effective, jnp.mean(acceptance))


@partial(jax.jit, static_argnames=("model", "settings"))
def _of_batch(model, params: Tree, keys: Key, x: Array, z: Array | None, settings: AISSettings):
    one = partial(_of_one, model, params, settings=settings)
    return jax.vmap(one, (0, 0, None if z is None else 0))(keys, x, z)


def ais_log_likelihood(
    model: Any, params: Tree, key: Key, x: Array, *, settings: AISSettings = DEFAULTS
) -> AISResult:
    """A lower bound, in expectation, of log p(x) by annealed importance sampling, nats.

    One compiled function for each model, shape of x and settings. It holds B K decoder outputs
    and their gradients at a time, whatever T is.

    Args:
        model: hashable, with `sample_posterior(params, key, x, S) -> z [S, B, D]`, whose density
            is never asked for, and `log_joint(params, x, z) -> [S, B]`, nats, differentiable in
            z. The prior is N(0, I).
        params: the model's parameters.
        key: data point b draws from `fold_in(key, b)`.
        x: [B, ...].
        settings: temperatures, chains, schedule and start.

    Raises:
        ValueError: for settings that are not allowed.
    """
    return _of_batch(model, params, _keys(key, x, settings), jnp.asarray(x), None, settings)


def ais_upper_bound(
    model: Any, params: Tree, key: Key, x: Array, z: Array, *, settings: AISSettings = DEFAULTS
) -> AISResult:
    """An upper bound, in expectation over x, of log p(x), for x that the model itself made; nats.

    Where p(x|z) is 0 for some z, it is loose by −log of the start's probability of the others,
    however many temperatures there are: no chain goes back to where the posterior is 0.

    Args:
        z: [B, D], what each x was drawn from: exact draws of p(z|x).

    The rest, and what is raised, as `ais_log_likelihood`.
    """
    return _of_batch(model, params, _keys(key, x, settings), jnp.asarray(x), z, settings)


def evaluate_ais(
    model: Any,
    params: Tree,
    key: Key,
    images: Any,
    *,
    settings: AISSettings = DEFAULTS,
    batch_size: int = 100,
    progress: bool = True,
    kept: Kept | None = None,
) -> Found:
    """`ais_log_likelihood` of every image of a test set, one compilation in all.

    Args:
        model: as for `ais_log_likelihood`.
        params: the model's parameters.
        key: image i anneals by `fold_in(key, i)`, whatever `batch_size` is; but rounding parts
            the chains of batches of different sizes, within the error of either.
        images: [n, ...], an array, or what has a length and gives those of an index array [B].
        settings: as for `ais_log_likelihood`.
        batch_size: images on the device at once.
        progress: whether to show a bar with acceptance and effective sample size.
        kept: see `in_batches`.

    Returns:
        `log_likelihood` (nats), `effective_sample_size` and `acceptance`: [n] each.

    Raises:
        ValueError: as `ais_log_likelihood` and `in_batches`.
    """
    keys = _keys(key, images, settings)

    def of_batch(index, x):
        return _of_batch(model, params, keys[index], jnp.asarray(x), None, settings)._asdict()

    return in_batches(of_batch, images, batch_size, progress=progress, kept=kept)


def bidirectional(
    model: Any,
    params: Tree,
    key: Key,
    num_images: int,
    *,
    settings: AISSettings = DEFAULTS,
    batch_size: int = 100,
    progress: bool = True,
    kept: Kept | None = None,
) -> Found:
    """AIS forwards and backwards on data points that the model itself makes, anew.

    The mean gap between the two bounds is at least the error of either on such data (Grosse et al.,
    section 4), and the certificate of the settings.

    Args:
        model: with `simulate(params, key, n) -> (x [n, ...], z [n, D])` besides.

    The rest as `evaluate_ais`.

    Returns:
        `lower`, `upper` (nats) and `acceptance` of both directions: [n] each.
    """
    key_simulate, *two = jax.random.split(key, 3)
    x, z = model.simulate(params, key_simulate, num_images)
    forwards, backwards = (_keys(key, x, settings) for key in two)

    def of_batch(index, x):
        lower = _of_batch(model, params, forwards[index], x, None, settings)
        upper = _of_batch(model, params, backwards[index], x, z[index], settings)
        acceptance = 0.5 * (lower.acceptance + upper.acceptance)
        return {
            "lower": lower.log_likelihood, "upper": upper.log_likelihood, "acceptance": acceptance
        }  # fmt: skip

    return in_batches(of_batch, x, batch_size, progress=progress, kept=kept)


def _keys(key: Key, x: Array, settings: AISSettings) -> Key:
    """A key for each data point, after a check of the settings."""
    check_settings(settings)
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(x)))
