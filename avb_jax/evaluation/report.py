"""Evaluates a model on a data set: numbers with their kind, standard error and sample sizes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.evaluation.importance import evaluate_log_likelihood, padded_batches
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
    methods = [
        lambda: _by_importance(
            model, params, key, images,
            num_samples=num_samples, batch_size=batch_size, progress=progress,
        )
    ]  # fmt: skip
    if model.latent_dim <= MAX_DIM:
        methods.append(lambda: _by_quadrature(model, params, images))
    methods.append(lambda: _elbo(model, params, key_elbo, images, batch_size))
    return [{**_timed(method), **(about or {}), "seed": seed} for method in methods]


def _in_batches(function, images: Any, batch_size: int) -> np.ndarray:
    """function(index [B], x) -> [B] over all images."""
    values = [
        np.asarray(function(index, images[index]))[:valid]
        for index, valid in padded_batches(len(images), batch_size)
    ]
    return np.concatenate(values)


def _timed(method: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    start = time.perf_counter()
    entry = method()
    return {**entry, "seconds": round(time.perf_counter() - start, 2)}


def _by_importance(
    model: Any, params: Tree, key: Key, images: Any, *, num_samples: int, **options
) -> dict[str, Any]:
    result = evaluate_log_likelihood(model, params, key, images, num_samples=num_samples, **options)
    return {
        "name": "log_likelihood",
        "kind": "lower bound",
        **summarise(result.log_likelihood),
        "effective_sample_size": float(np.mean(result.effective_sample_size)),
        "method": "importance sampling, Student t fitted to draws of q",
        "num_samples": num_samples,
    }


def _by_quadrature(model: Any, params: Tree, images: Any) -> dict[str, Any]:
    def exact(_, x):
        return quadrature_log_likelihood(model, params, x)

    return {
        "name": "log_likelihood",
        "kind": "exact",
        **summarise(_in_batches(exact, images, QUADRATURE_BATCH)),
        "method": "quadrature over a grid of z",
    }


def _elbo(model: Any, params: Tree, key: Key, images: Any, batch_size: int) -> dict[str, Any]:
    def estimate(index, x):
        return elbo_estimate(model, params, jax.random.fold_in(key, int(index[0])), x)

    return {
        "name": "elbo",
        "kind": "lower bound" if model.log_ratio is None else "estimate",
        **summarise(_in_batches(estimate, images, batch_size)),
        "num_samples": ELBO_SAMPLES,
    }
