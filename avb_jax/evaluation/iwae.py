"""The importance-weighted bound: exact densities alone weigh, so that it is a bound."""

from functools import partial
from typing import Any

import jax
import numpy as np

from avb_jax.evaluation.batches import Found, Kept, in_batches
from avb_jax.evaluation.importance import BLOCK_SIZE, importance_log_likelihood
from avb_jax.evaluation.weights import ImportanceResult, check_counts, mean_weight
from avb_jax.types import Array, Key, Tree


def is_explicit(model: Any) -> bool:
    """Whether q(z|x) has a density of its own, and no critic to learn it."""
    return getattr(model, "log_ratio", iwae_bound) is None


@partial(jax.jit, static_argnames=("model", "num_samples", "block_size"))
def iwae_bound(
    model: Any,
    params: Tree,
    key: Key,
    x: Array,
    *,
    num_samples: int,
    block_size: int = BLOCK_SIZE,
) -> ImportanceResult:
    """L_K = E log (1/K) Σ_k p(x, z_k)/q(z_k|x), nats: a lower bound of log p(x) in expectation.

    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, equation 8; L_1
    is the ELBO, and L_K never falls as K grows. The draws of an explicit encoder are weighed by its
    own density, and the gradient flows through them. An implicit one's density is known as log q̂
    alone, which would give no bound: its draws fit the proposal of `importance_log_likelihood`,
    which is not refitted here.

    Args:
        model: see `avb_jax.Model`; for an implicit encoder `importance_log_likelihood`'s will do.
        params: the model's parameters.
        key: of the draws.
        x: [B, ...].
        num_samples: K.
        block_size: draws for each x that are decoded at once.

    Raises:
        ValueError: if a count is below 1.
    """
    check_counts(num_samples=num_samples, block_size=block_size)
    counts = {"num_samples": num_samples, "block_size": block_size}
    if not is_explicit(model):
        return importance_log_likelihood(model, params, key, x, num_refits=0, **counts)
    key_z, key_q = jax.random.split(key)
    z = model.sample_posterior(params, key_z, x, num_samples)
    log_q = model.log_posterior_estimate(params, key_q, x, z)

    def log_weights(index: Array) -> Array:
        return model.log_joint(params, x, z[index]) - log_q[index]

    return mean_weight(log_weights, **counts)


def evaluate_iwae(
    model: Any,
    params: Tree,
    key: Key,
    images: Any,
    *,
    num_samples: int,
    batch_size: int = 100,
    progress: bool = True,
    kept: Kept | None = None,
) -> Found:
    """`iwae_bound` of every image of a test set, one compilation in all.

    Args:
        model: as for `iwae_bound`.
        params: the model's parameters.
        key: of the draws; a batch draws from `fold_in(key, number of its first image)`.
        images: [n, ...], an array, or what has a length and gives those of an index array [B].
        num_samples: K, draws for each image.
        batch_size: images on the device at once.
        progress: whether to show a bar with images/s and the running means.
        kept: see `in_batches`.

    Returns:
        `log_likelihood` (nats) and `effective_sample_size`: [n] each.

    Raises:
        ValueError: as `iwae_bound` and `in_batches`.
    """

    def of_batch(index, x):
        key_batch = jax.random.fold_in(key, int(index[0]))
        return iwae_bound(
            model, params, key_batch, np.asarray(x), num_samples=num_samples
        )._asdict()

    return in_batches(of_batch, images, batch_size, progress=progress, kept=kept)
