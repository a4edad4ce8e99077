"""log p(x) by importance sampling: a lower bound in expectation, for any encoder.

The encoder is only ever sampled. A multivariate Student t is fitted to draws of q(z|x), fresh
draws of it are weighted by w = p(x, z) / proposal(z), and the mean weight is an unbiased
estimate of p(x), whatever q is. Its logarithm is therefore a lower bound of log p(x) in
expectation, and a tighter one the more samples there are (Burda, Grosse and Salakhutdinov,
"Importance Weighted Autoencoders", ICLR 2016, section 3).
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avb_jax.evaluation.batches import Found, Kept, in_batches
from avb_jax.evaluation.proposal import (
    DEGREES_OF_FREEDOM,
    INFLATION,
    fit_proposal,
    log_density_proposal,
    sample_proposal,
)
from avb_jax.types import Array, Key, Tree

NUM_FIT = 256  # draws of q(z|x) that the proposal is fitted to
BLOCK_SIZE = 20  # draws for each x that are decoded at once


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


@partial(
    jax.jit,
    static_argnames=(
        "model",
        "num_samples",
        "num_fit",
        "inflation",
        "degrees_of_freedom",
        "block_size",
    ),
)
def importance_log_likelihood(
    model: Any,
    params: Tree,
    key: Key,
    x: Array,
    *,
    num_samples: int = 1000,
    num_fit: int = NUM_FIT,
    inflation: float = INFLATION,
    degrees_of_freedom: int | float = DEGREES_OF_FREEDOM,
    block_size: int = BLOCK_SIZE,
) -> ImportanceResult:
    """A lower bound, in expectation, of log p(x) from S draws of a proposal fitted to q(z|x).

    Compiled once for each model, shape of x and set of options. Memory does not grow with S: it
    is that of `num_fit` draws of the encoder, and of `block_size` times B decoder outputs at a
    time, in the gradient too. The weights are bounded, whatever q is, where p(x|z) is: their
    numerator has at most the prior's Gaussian tails. The proposal is held fixed in the gradient,
    which is therefore the weighted mean of that of log p(x, z), and zero for the encoder.

    Args:
        model: hashable, with `sample_posterior(params, key, x, S) -> z [S, B, D]`, whose density
            is never asked for, and `log_joint(params, x, z) -> [S, B]`, nats. The prior is
            N(0, I).
        params: the model's parameters.
        key: the same key gives the same draws, whatever `block_size` is.
        x: [B, ...].
        num_samples: S, draws of the proposal for each x.
        num_fit: M, draws of q(z|x) that the proposal is fitted to.
        inflation: factor on the proposal's scale.
        degrees_of_freedom: of the proposal, an int; `math.inf` for a Gaussian.
        block_size: draws for each x that are decoded at once.

    Raises:
        ValueError: if a count is below 1, or as `fit_proposal`.
    """
    check_counts(num_samples=num_samples, num_fit=num_fit, block_size=block_size)
    log_weights = _log_weights(
        model, params, key, x, num_fit, inflation=inflation, degrees_of_freedom=degrees_of_freedom
    )
    return mean_weight(log_weights, num_samples, block_size)


def _log_weights(
    model: Any, params: Tree, key: Key, x: Array, num_fit: int, **proposal_options
) -> Callable[[Array], Array]:
    """Sample numbers [n] to log w [n, B], nats."""
    fit_key, draw_key = jax.random.split(key)
    draws = lax.stop_gradient(model.sample_posterior(params, fit_key, x, num_fit))
    proposal = fit_proposal(draws, **proposal_options)

    def log_weights(index: Array) -> Array:
        # A key for each sample number: the draws do not depend on the blocks.
        keys = jax.vmap(partial(jax.random.fold_in, draw_key))(index)
        z = jax.vmap(partial(sample_proposal, proposal))(keys)
        return model.log_joint(params, x, z) - log_density_proposal(proposal, z)

    return log_weights


def evaluate_log_likelihood(
    model: Any,
    params: Tree,
    key: Key,
    images: Any,
    *,
    num_samples: int = 1000,
    batch_size: int = 100,
    progress: bool = True,
    kept: Kept | None = None,
) -> Found:
    """`importance_log_likelihood` of every image of a test set, one compilation in all.

    Each image has a key of its own, so that its result does not depend on `batch_size`, but for
    rounding, or on the images after it.

    Args:
        model: as for `importance_log_likelihood`, and fit for `jax.vmap`.
        params: the model's parameters.
        key: image i draws from `fold_in(key, i)`.
        images: [n, ...] as the model sees them: an array, or what has a length and gives those
            of an index array [B].
        num_samples: S, draws of the proposal for each image.
        batch_size: images on the device at once.
        progress: whether to show a bar with images/s and the running means.
        kept: see `in_batches`.

    Returns:
        `log_likelihood` (nats), `effective_sample_size` and `pareto_k` (see `pareto_k`): [n] each.

    Raises:
        ValueError: if there are no images or a count is below 1.
    """
    check_counts(images=len(images), num_samples=num_samples, batch_size=batch_size)

    def of_batch(index, x):
        log_w, mean = _evaluate_batch(model, params, key, index, np.asarray(x), num_samples)
        return {**mean._asdict(), "pareto_k": pareto_k(log_w)}

    return in_batches(of_batch, images, batch_size, progress=progress, kept=kept)


@partial(jax.jit, static_argnames=("model", "num_samples"))
def _evaluate_batch(
    model: Any, params: Tree, key: Key, index: Array, x: Array, num_samples: int
) -> tuple[Array, ImportanceResult]:
    """log w [B, S], and what their means say."""

    def evaluate(i: Array, image: Array) -> Array:
        log_weights = _log_weights(model, params, jax.random.fold_in(key, i), image[None], NUM_FIT)
        blocks = jnp.arange(0, num_samples, BLOCK_SIZE)[:, None] + jnp.arange(BLOCK_SIZE)[None]
        return lax.map(log_weights, blocks).reshape(-1)[:num_samples]

    log_w = jax.vmap(evaluate)(index, x)
    return log_w, mean_weight(lambda index: log_w.T[index], num_samples, num_samples)


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


def check_counts(**counts: int) -> None:
    """Raises ValueError unless every count is at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} was {count}; allowed is 1 or more")
