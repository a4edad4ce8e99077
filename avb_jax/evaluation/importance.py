"""log p(x) by importance sampling: a lower bound in expectation, for any encoder.

The encoder is only ever sampled. A multivariate Student t is fitted to draws of q(z|x), fresh
draws of it are weighted by w = p(x, z) / proposal(z), and the mean weight is an unbiased
estimate of p(x), whatever q is. Its logarithm is therefore a lower bound of log p(x) in
expectation, and a tighter one the more samples there are (Burda, Grosse and Salakhutdinov,
"Importance Weighted Autoencoders", ICLR 2016, section 3).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tqdm import tqdm

from avb_jax.evaluation.proposal import (
    DEGREES_OF_FREEDOM,
    INFLATION,
    fit_proposal,
    log_density_proposal,
    sample_proposal,
)
from avb_jax.types import Array, Key, Tree


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
    num_fit: int = 256,
    inflation: float = INFLATION,
    degrees_of_freedom: int | float = DEGREES_OF_FREEDOM,
    block_size: int = 20,
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
    fit_key, draw_key = jax.random.split(key)
    draws = lax.stop_gradient(model.sample_posterior(params, fit_key, x, num_fit))
    proposal = fit_proposal(draws, inflation=inflation, degrees_of_freedom=degrees_of_freedom)

    def log_weights(index: Array) -> Array:
        # A key for each sample number: the draws do not depend on the blocks.
        keys = jax.vmap(partial(jax.random.fold_in, draw_key))(index)
        z = jax.vmap(partial(sample_proposal, proposal))(keys)
        return model.log_joint(params, x, z) - log_density_proposal(proposal, z)

    return mean_weight(log_weights, num_samples, block_size)


def evaluate_log_likelihood(
    model: Any,
    params: Tree,
    key: Key,
    images: Any,
    *,
    num_samples: int = 1000,
    batch_size: int = 100,
    progress: bool = True,
) -> ImportanceResult:
    """`importance_log_likelihood` of every image of a test set, one compilation in all.

    Each image has a key of its own, so that its result does not depend on `batch_size`, but for
    rounding, or on the images after it. The last batch is padded and the padding left out.

    Args:
        model: as for `importance_log_likelihood`, and fit for `jax.vmap`.
        params: the model's parameters.
        key: image i draws from `fold_in(key, i)`.
        images: [n, ...] as the model sees them: an array, or what has a length and gives those
            of an index array [B].
        num_samples: S, draws of the proposal for each image.
        batch_size: images on the device at once.
        progress: whether to show a bar with images/s and the running means.

    Returns:
        NumPy arrays [n], nats and samples.

    Raises:
        ValueError: if there are no images or a count is below 1.
    """
    total = len(images)
    check_counts(images=total, num_samples=num_samples, batch_size=batch_size)
    results: list[ImportanceResult] = []
    with tqdm(total=total, unit=" images", disable=not progress) as bar:
        for index, valid in padded_batches(total, batch_size):
            batch = np.asarray(images[index])
            result = _evaluate_batch(model, params, key, index, batch, num_samples)
            results.append(ImportanceResult(*(np.asarray(value)[:valid] for value in result)))
            so_far = [np.concatenate(values) for values in zip(*results, strict=True)]
            bar.update(valid)
            bar.set_postfix(log_likelihood=f"{so_far[0].mean():.2f}", ess=f"{so_far[1].mean():.0f}")
    return ImportanceResult(*so_far)


def padded_batches(total: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Indices [B] of each batch, the last filled up by repetition, and how many of them count."""
    size = min(batch_size, total)
    for start in range(0, total, size):
        yield np.minimum(np.arange(start, start + size), total - 1), min(size, total - start)


@partial(jax.jit, static_argnames=("model", "num_samples"))
def _evaluate_batch(
    model: Any, params: Tree, key: Key, index: Array, x: Array, num_samples: int
) -> ImportanceResult:
    def evaluate(i: Array, image: Array) -> ImportanceResult:
        image_key = jax.random.fold_in(key, i)
        return importance_log_likelihood(
            model, params, image_key, image[None], num_samples=num_samples
        )

    return jax.tree.map(lambda value: value[:, 0], jax.vmap(evaluate)(index, x))


def check_counts(**counts: int) -> None:
    """Raises ValueError unless every count is at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} was {count}; allowed is 1 or more")
