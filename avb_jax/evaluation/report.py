"""Evaluates a model on a data set: numbers with their kind, standard error and sample sizes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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
    images: Any,
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
        images: [n, ...] as the model sees them: an array, or what has a length and gives those
            of an index array [B], such as `data.Binarized`.
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
    evaluated = Evaluated(model, params, images)
    methods = [lambda: _by_importance(evaluated, key, num_samples, batch_size, progress)]
    if model.latent_dim <= MAX_DIM:
        methods.append(lambda: _by_quadrature(evaluated, key))
    methods.append(lambda: _elbo(evaluated, key_elbo, batch_size))
    return [{**_timed(method), **(about or {}), "seed": seed} for method in methods]


class Evaluated(NamedTuple):
    """A model with its parameters, and the images that it is evaluated on."""

    model: Any
    params: Tree
    images: Any

    def in_batches(self, function, key: Key, batch_size: int) -> np.ndarray:
        """function(model, params, key, x) -> [B] over all images, the last batch filled up."""
        count = len(self.images)
        size = min(batch_size, count)
        values = []
        for start in range(0, count, size):
            index = np.minimum(np.arange(start, start + size), count - 1)
            batch_key = jax.random.fold_in(key, start)
            value = function(self.model, self.params, batch_key, self.images[index])
            values.append(np.asarray(value))
        return np.concatenate(values)[:count]


def _timed(method: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    start = time.perf_counter()
    entry = method()
    return {**entry, "seconds": round(time.perf_counter() - start, 2)}


def _by_importance(on: Evaluated, key: Key, num_samples: int, batch_size: int, progress: bool):
    result = evaluate_log_likelihood(
        *on[:2], key, on.images, num_samples=num_samples, batch_size=batch_size, progress=progress
    )
    return {
        "name": "log_likelihood",
        "kind": "lower bound",
        **summarise(result.log_likelihood),
        "effective_sample_size": float(np.mean(result.effective_sample_size)),
        "method": "importance sampling, Student t fitted to draws of q",
        "num_samples": num_samples,
    }


def _by_quadrature(on: Evaluated, key: Key):
    def exact(model, params, _, x):
        return quadrature_log_likelihood(model, params, x)

    return {
        "name": "log_likelihood",
        "kind": "exact",
        **summarise(on.in_batches(exact, key, QUADRATURE_BATCH)),
        "method": "quadrature over a grid of z",
    }


def _elbo(on: Evaluated, key: Key, batch_size: int):
    return {
        "name": "elbo",
        "kind": "lower bound" if on.model.log_ratio is None else "estimate",
        **summarise(on.in_batches(elbo_estimate, key, batch_size)),
        "num_samples": ELBO_SAMPLES,
    }
