"""log p(x) by importance sampling: a lower bound in expectation, for any encoder.

The encoder is only ever sampled. A multivariate Student t is fitted to draws of q(z|x), and then,
some times over, to its own draws weighted by w = p(x, z) / proposal(z). The mean weight of fresh
draws of the last is an unbiased estimate of p(x), whatever q is. Its logarithm is therefore a
lower bound of log p(x) in expectation, and a tighter one the more samples there are (Burda, Grosse
and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, section 3).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from avb_jax.evaluation.batches import Found, Kept, in_batches
from avb_jax.evaluation.proposal import (
    DEGREES_OF_FREEDOM,
    INFLATION,
    Proposal,
    fit_proposal,
    log_density_proposal,
    refit_proposal,
    sample_proposal,
)
from avb_jax.evaluation.weights import (
    ImportanceResult,
    check_counts,
    in_blocks,
    mean_weight,
    pareto_k,
)
from avb_jax.types import Array, Key, Tree

# Draws of q(z|x) that the proposal is fitted to, or FIT_PER_DIM D if those are more; half as many
# of its own refit it.
LEAST_FIT, FIT_PER_DIM = 256, 32
NUM_REFITS = 4
BLOCK_SIZE = 20  # draws for each x that are decoded at once
CACHED = 200  # images that are decoded at once on a CPU, whose cache holds no more of convolutions


@partial(
    jax.jit,
    static_argnames=(
        "model",
        "num_samples",
        "num_fit",
        "num_refits",
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
    num_fit: int | None = None,
    num_refits: int = NUM_REFITS,
    inflation: float = INFLATION,
    degrees_of_freedom: int | float = DEGREES_OF_FREEDOM,
    block_size: int = BLOCK_SIZE,
) -> ImportanceResult:
    """A lower bound, in expectation, of log p(x) from S draws of a proposal that q(z|x) starts.

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
        num_fit: M, draws of q(z|x) that the proposal is fitted to; max(256, 32 D) where unset.
        num_refits: times that it is fitted to M/2 weighted draws of its own; see `refit_proposal`.
        inflation: factor on the proposal's scale.
        degrees_of_freedom: of the proposal, an int; `math.inf` for a Gaussian.
        block_size: draws for each x that are decoded at once.

    Raises:
        ValueError: if a count is below 1, `num_refits` is below 0, or as `fit_proposal`.
    """
    if num_fit is None:
        num_fit = _enough_to_fit(model, params, x)
    check_counts(num_samples=num_samples, num_fit=num_fit, block_size=block_size)
    if num_refits < 0:
        raise ValueError(f"num_refits was {num_refits}; allowed is 0 or more")
    settings = _Settings(num_fit, num_refits, inflation, degrees_of_freedom, block_size)
    log_weights = _log_weights(model, params, key, x, settings)
    return mean_weight(log_weights, num_samples, block_size)


def _enough_to_fit(model: Any, params: Tree, x: Array) -> int:
    draw = partial(model.sample_posterior, params, jax.random.key(0), x, 1)
    return max(LEAST_FIT, FIT_PER_DIM * jax.eval_shape(draw).shape[-1])


class _Settings(NamedTuple):
    num_fit: int
    num_refits: int = NUM_REFITS
    inflation: float = INFLATION
    degrees_of_freedom: int | float = DEGREES_OF_FREEDOM
    block_size: int = BLOCK_SIZE


def _log_weights(
    model: Any, params: Tree, key: Key, x: Array, settings: _Settings
) -> Callable[[Array], Array]:
    """Sample numbers [n] to log w [n, B], nats, by a proposal that is fitted first."""
    num_fit, num_refits, inflation, degrees, block_size = settings
    fit_key, draw_key = jax.random.split(key)
    held_params, held_x = lax.stop_gradient((params, x))
    draws = model.sample_posterior(held_params, fit_key, held_x, num_fit)
    first = fit_proposal(draws, inflation=inflation, degrees_of_freedom=degrees)

    def refit(fitted: tuple[Array, Array], key: Key):
        proposal = Proposal(*fitted, degrees)
        weigh = partial(_weigh, model, held_params, held_x, proposal, key)
        z, log_w = in_blocks(weigh, (num_fit + 1) // 2, block_size)
        proposal = refit_proposal(proposal, z, log_w, inflation=inflation)
        return (proposal.mean, proposal.scale_tril), None

    keys = jax.random.split(jax.random.fold_in(fit_key, 1), num_refits)
    fitted, _ = lax.scan(refit, (first.mean, first.scale_tril), keys)
    proposal = Proposal(*fitted, degrees)
    return lambda index: _weigh(model, params, x, proposal, draw_key, index)[1]


def _weigh(
    model: Any, params: Tree, x: Array, proposal: Proposal, key: Key, index: Array
) -> tuple[Array, Array]:
    """Draws [n, B, D] of these sample numbers, and their log w [n, B], nats."""
    # A key for each sample number: the draws do not depend on the blocks.
    keys = jax.vmap(partial(jax.random.fold_in, key))(index)
    z = jax.vmap(partial(sample_proposal, proposal))(keys)
    return z, model.log_joint(params, x, z) - log_density_proposal(proposal, z)


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
    check_counts(num_samples=num_samples)

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
        of_image = jax.random.fold_in(key, i)
        num_fit = _enough_to_fit(model, params, image[None])
        settings = _Settings(num_fit, block_size=_block_size(len(x)))
        log_weights = _log_weights(model, params, of_image, image[None], settings)
        return in_blocks(log_weights, num_samples, settings.block_size)[:, 0]

    log_w = jax.vmap(evaluate)(index, x)
    return log_w, mean_weight(lambda index: log_w.T[index], num_samples, num_samples)


def _block_size(batch_size: int) -> int:
    """Draws for each of so many x that are decoded at once."""
    on_cpu = jax.default_backend() == "cpu"
    return max(1, CACHED // batch_size) if on_cpu else BLOCK_SIZE
