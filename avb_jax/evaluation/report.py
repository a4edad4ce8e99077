"""Evaluates a model on a data set: numbers with their kind, standard error and sample sizes."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.evaluation.importance import evaluate_log_likelihood
from avb_jax.evaluation.quadrature import MAX_DIM, quadrature_log_likelihood
from avb_jax.types import Array, Key, Tree

ELBO_SAMPLES = 16  # draws of q per data point
QUADRATURE_BATCH = 1000  # the grid is decoded once for each batch


@partial(jax.jit, static_argnames=("model", "num_samples"))
def elbo_estimate(
    model: Any, params: Tree, key: Key, x: Array, num_samples: int = ELBO_SAMPLES
) -> Array:
    """E_q[log p(x, z) − log q̂(z|x)], [B] nats, from S draws for each x (paper, equation 2.2).

    A lower bound of log p(x) in expectation for an explicit encoder. For an implicit one it
    is the critic's estimate and no bound: a critic underestimates log q, so it flatters.
    """
    key_z, key_q = jax.random.split(key)
    z = model.sample_posterior(params, key_z, x, num_samples)
    log_q = model.log_posterior_estimate(params, key_q, x, z)
    return jnp.mean(model.log_joint(params, x, z) - log_q, axis=0)


def summarise(values: np.ndarray) -> dict[str, float | int]:
    """Mean over data points, and its standard error over them."""
    values = np.asarray(values, np.float64)
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    return {
        "value": float(values.mean()),
        "stderr": float(spread / np.sqrt(values.size)),
        "n": int(values.size),
    }


def evaluate(
    model: Any,
    params: Tree,
    images: Array,
    *,
    num_samples: int = 1000,
    batch_size: int = 100,
    seed: int = 0,
    progress: bool = True,
    about: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The entries of `evaluation.json` for one set of images.

    Args:
        model: see `avb_jax.Model`.
        params: its parameters.
        images: [n, ...], as the model sees them.
        num_samples: S of the importance sampling.
        batch_size: B, images at a time.
        seed: of the evaluation's own draws.
        progress: whether to show a bar.
        about: what else each entry should say (split, binarisation, ...).

    Returns:
        `log_likelihood` by importance sampling (lower bound), by quadrature (exact) where
        D <= 2, and `elbo` (lower bound for an explicit encoder, else an estimate).
    """
    key, key_elbo = jax.random.split(jax.random.key(seed))
    about = {**(about or {}), "seed": seed}
    clock = _Stopwatch()
    result = evaluate_log_likelihood(
        model, params, key, images,
        num_samples=num_samples, batch_size=batch_size, progress=progress,
    )  # fmt: skip
    likelihood = {
        "name": "log_likelihood",
        "kind": "lower bound",
        **summarise(result.log_likelihood),
        "effective_sample_size": float(np.mean(result.effective_sample_size)),
        "method": "importance sampling, Student t fitted to draws of q",
        "num_samples": num_samples,
        "seconds": clock.lap(),
    }
    entries = [likelihood]
    if model.latent_dim <= MAX_DIM:
        exact = _in_batches(
            lambda _, x: quadrature_log_likelihood(model, params, x), key, images, QUADRATURE_BATCH
        )
        entries.append(
            {
                "name": "log_likelihood",
                "kind": "exact",
                **summarise(exact),
                "method": "quadrature over a grid of z",
                "seconds": clock.lap(),
            }
        )
    elbo = _in_batches(
        lambda key, x: elbo_estimate(model, params, key, x), key_elbo, images, batch_size
    )
    entries.append(
        {
            "name": "elbo",
            "kind": "lower bound" if model.log_ratio is None else "estimate",
            **summarise(elbo),
            "num_samples": ELBO_SAMPLES,
            "seconds": clock.lap(),
        }
    )
    return [{**entry, **about} for entry in entries]


class _Stopwatch:
    def __init__(self):
        self.start = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the lap before."""
        before, self.start = self.start, time.perf_counter()
        return round(self.start - before, 2)


def _in_batches(function, key: Key, images: Array, batch_size: int) -> np.ndarray:
    """function(key, x) -> [B] over all images, the last batch filled up by repetition."""
    count = len(images)
    size = min(batch_size, count)
    values = []
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        values.append(np.asarray(function(jax.random.fold_in(key, start), images[index])))
    return np.concatenate(values)[:count]
