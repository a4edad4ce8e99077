"""What `fit_critic` is made of: the critic's loss against a contrast, and a patient descent."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from tqdm import tqdm

from avb_jax import objectives
from avb_jax.networks.critics import ResidualCritic
from avb_jax.reference import Draws, Reference
from avb_jax.types import Array, Key, Tree

ROUND = 250  # steps between two looks at the held-out loss
IMPROVEMENT = 2e-4  # nats of held-out loss that a round must gain
LOST = 1.0  # nats above the least held-out loss, from where a descent does not come back
MOMENTUM, ITERATIONS = 0.99, 3  # of Muon, and of its orthogonalisation
LARGEST = 128  # smaller side of a matrix that Muon takes: others cost it more than their gradient
CLIP_NORM = 1.0  # of each gradient: `exp` has heavy ones


class Problem(NamedTuple):
    """The critic's loss, (parameters, draws, key) -> scalar once the contrast's are given."""

    reference: Reference
    critic: ResidualCritic
    loss: str

    def ratios(self, psi: Tree, alpha: Tree, draws: Draws, key: Key):
        """s at the draws of q and at as many of r, and log q̂ at those of q: [S, B] each."""
        u, log_r = self.reference.coordinates(alpha, draws)
        both = jnp.concatenate([u, self.reference.sample(key, u)])
        s_q, s_r = jnp.split(self.critic.apply(psi, draws.context, both), 2)
        return s_q, s_r, s_q + log_r

    def critic_loss(self, alpha: Tree, psi: Tree, draws: Draws, key: Key) -> Array:
        return jnp.mean(self.losses(*self.ratios(psi, alpha, draws, key)))

    def losses(self, s_q: Array, s_r: Array, log_q: Array) -> Array:
        """The critic loss at each of what `ratios` returns."""
        at_q = log_q - 1.0 if self.loss == "exp_as_written" else s_q
        return objectives.critic_loss(self.loss, at_q, s_r)


class Pace(NamedTuple):
    """Of a descent.

    Attributes:
        rate: the first learning rate of matrices, which are Muon's.
        adam_rate: that of all else.
        most: steps, at most.
        patience: rounds without `IMPROVEMENT` that make a plateau.
    """

    rate: float
    adam_rate: float
    most: int
    patience: int


def _orthogonalised(parameter: Array) -> optax.contrib.MuonDimensionNumbers | None:
    """How Muon is to take it; None, which leaves it to Adam, of no matrix or too large a one."""
    small = parameter.ndim == 2 and min(parameter.shape) <= LARGEST
    return optax.contrib.MuonDimensionNumbers() if small else None


def _muon(adam_rate: float) -> optax.GradientTransformation:
    """Muon at a rate of 1, Adam at this one, clipped, and without the steps that are not finite."""
    muon = optax.contrib.muon(
        1.0,
        beta=MOMENTUM,
        ns_steps=ITERATIONS,
        adam_learning_rate=adam_rate,
        muon_weight_dimension_numbers=partial(jax.tree.map, _orthogonalised),
    )
    clipped = optax.chain(optax.clip_by_global_norm(CLIP_NORM), muon)
    return optax.apply_if_finite(clipped, max_consecutive_errors=ROUND)


def _steps(
    optimizer: optax.GradientTransformation, loss: Callable, draw: Callable, held_out: Callable
) -> Callable:
    """One round: (params, opt_state, keys, rate) -> (params, opt_state, held-out loss)."""

    @jax.jit
    def steps(params, opt_state, keys, rate):
        def one(carry, key):
            params, opt_state = carry
            key_draw, key_loss = jax.random.split(key)
            gradient = jax.grad(loss)(params, draw(key_draw), key_loss)
            with jax.numpy_dtype_promotion("standard"):  # optax itself mixes dtypes
                updates, opt_state = optimizer.update(gradient, opt_state, params)
            return (jax.tree.map(lambda p, u: p + rate * u, params, updates), opt_state), None

        (params, opt_state), _ = jax.lax.scan(one, (params, opt_state), keys)
        return params, opt_state, held_out(params)

    return steps


def descend(
    key: Key, params: Tree, loss: Callable, draw: Callable, stop, pace: Pace, bar: tqdm
) -> tuple[Tree, int]:
    """Muon (Jordan et al. 2024) on fresh draws, keeping the parameters of the least held-out loss.

    The learning rate falls by a cosine to nothing at the last step. A plateau of the held-out
    loss brings that nearer: as many steps again as have been taken. A step whose gradient is not
    finite, for draws that are far out, is not taken. A round that ends a nat above the least, or
    not finite, is undone: the descent goes on from the best parameters, at half the rate.

    Args:
        loss: (params, draws, key) -> scalar.
        draw: key -> draws.
        stop: (draws, keys), held out, stacked by batches.

    Returns:
        The parameters of the least held-out loss, and the steps taken.

    Raises:
        FloatingPointError: if the loss is not finite at the start.
    """
    optimizer = _muon(pace.adam_rate / pace.rate)

    def held_out(params):
        return jnp.mean(jax.lax.map(lambda batch: loss(params, *batch), stop))

    steps = _steps(optimizer, loss, draw, held_out)
    best, least = params, float(jax.jit(held_out)(params))
    if not math.isfinite(least):
        raise FloatingPointError(
            "the draws of sample are not finite, or lie in less than dim dimensions: the loss is "
            f"{least} before the first step"
        )
    rate, most, opt_state, stale, taken = pace.rate, pace.most, optimizer.init(params), 0, 0
    while taken < most:
        count = min(ROUND, most - taken)
        now = rate * (0.5 + 0.5 * math.cos(math.pi * (taken + count / 2) / most))
        keys = jax.random.split(jax.random.fold_in(key, taken), count)
        params, opt_state, value = steps(params, opt_state, keys, jnp.float32(now))
        value, taken = float(value), taken + count
        stale = 0 if value < least - IMPROVEMENT else stale + 1
        if stale == pace.patience:
            most = min(most, 2 * taken)
        if value < least:
            best, least = params, value
        elif not value < least + LOST:
            params, opt_state, rate = best, optimizer.init(best), rate / 2
        bar.update(count)
        bar.set_postfix(held_out_loss=f"{least:.4f}", refresh=False)
    return best, taken
