"""Importance weights: their mean, in blocks, and whether it is to be trusted."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avb_jax.types import Array, Tree


class ImportanceResult(NamedTuple):
    """An importance-sampling estimate, one for each data point.

    Attributes:
        log_likelihood: [B], log of the mean weight, nats: a lower bound in expectation.
        effective_sample_size: [B], (Σ w)² / Σ w², between 1 and S; NaN if every weight is zero.
    """

    log_likelihood: Array
    effective_sample_size: Array


def mean_weight(
    log_weights: Callable[[Array], Array], num_samples: int, block_size: int
) -> ImportanceResult:
    """Streams log w [S, B] through memory in blocks: log of their mean, effective sample size.

    Forward and backward hold one block at a time: the backward pass computes it again.

    Args:
        log_weights: sample numbers [block_size] to log w [block_size, B], nats; also asked for
            numbers of `num_samples` and above in the last block, and those are ignored.
        num_samples: S.
        block_size: samples held at once.
    """
    block = jnp.arange(min(block_size, num_samples))
    like = jax.eval_shape(log_weights, block)
    zeros = jnp.zeros(like.shape[1:], like.dtype)

    @jax.checkpoint
    def add_block(sums, start):
        peak, total, squares = sums
        index = start + block
        log_w = jnp.where((index < num_samples)[:, None], log_weights(index), -jnp.inf)
        new_peak = lax.stop_gradient(jnp.maximum(peak, jnp.max(log_w, axis=0)))
        shrink, w = jnp.exp(peak - new_peak), jnp.exp(log_w - new_peak[None])
        total = shrink * total + jnp.sum(w, axis=0)
        squares = shrink**2 * squares + jnp.sum(w**2, axis=0)
        return (new_peak, total, squares), None

    # A finite start: -inf would give NaN where a whole block has zero weight.
    start = (zeros + jnp.finfo(zeros.dtype).min, zeros, zeros)
    starts = jnp.arange(0, num_samples, block.size)
    (peak, total, squares), _ = lax.scan(add_block, start, starts)
    return ImportanceResult(peak + jnp.log(total / num_samples), total**2 / squares)


def in_blocks(of: Callable[[Array], Tree], num_samples: int, block_size: int) -> Tree:
    """What it gives of the first `num_samples` numbers, so many of them at once."""
    blocks = jnp.arange(0, num_samples, block_size)[:, None] + jnp.arange(block_size)[None]
    found = lax.map(of, blocks)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num_samples], found)


def pareto_k(log_w: Array) -> np.ndarray:
    """k̂, the shape of the Pareto distribution fitted to the tail of each row's weights: [B].

    Above 0.7 the weights' mean is not to be trusted (Vehtari, Simpson, Gelman, Yao and Gabry,
    "Pareto smoothed importance sampling", JMLR 2024); infinite where there are too few of them.

    Args:
        log_w: [B, S], log weights, nats.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ announces its next version whenever it is imported
        from arviz import psislw

        return np.atleast_1d(psislw(np.asarray(log_w, np.float64))[1])


def check_counts(*, least: int = 1, **counts: int) -> None:
    """Raises ValueError unless every count is at least so much."""
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name} was {count}; allowed is {least} or more")
