"""Evaluates a model on a data set: numbers with their kind, standard error and sample sizes."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from avb_jax.evaluation.elbo import (
    Entry,
    elbo_of_implicit,
    elbo_of_model,
    in_batches,
    summarise,
)
from avb_jax.evaluation.importance import evaluate_log_likelihood
from avb_jax.evaluation.quadrature import MAX_DIM, quadrature_log_likelihood
from avb_jax.types import Key, Tree

QUADRATURE_BATCH = 1000  # the grid is decoded once for each batch


def evaluate(
    model: Any,
    params: Tree,
    images: Any,
    *,
    num_samples: int = 1000,
    batch_size: int = 100,
    fit_steps: int = 3000,
    seed: int = 0,
    progress: bool = True,
    about: dict[str, Any] | None = None,
) -> list[Entry]:
    """The entries of `evaluation.json` for one set of images.

    Args:
        model: see `avb_jax.Model`.
        params: its parameters.
        images: [n, ...] as the model sees them: an array, or what has a length and gives those
            of an index array [B], such as `data.Binarized`.
        num_samples: S of the importance sampling.
        batch_size: B, images at a time.
        fit_steps: at most so many, of the critic that is fitted to the frozen posterior of an
            implicit encoder; 0: none, and the ELBO is the trained critic's own estimate.
        seed: of the evaluation's own draws.
        progress: whether to show a bar.
        about: what else each entry should say (split, binarisation, ...).

    Returns:
        `log_likelihood` by importance sampling (lower bound), by quadrature (exact) where
        D <= 2, and `elbo`: a lower bound of log p(x) for an explicit encoder, and what
        `elbo_of_implicit` tells for another.
    """
    keys = jax.random.split(jax.random.key(seed), 4)
    methods = [
        lambda: _by_importance(
            model, params, keys[0], images,
            num_samples=num_samples, batch_size=batch_size, progress=progress,
        )
    ]  # fmt: skip
    if model.latent_dim <= MAX_DIM:
        methods.append(lambda: _by_quadrature(model, params, images))
    if model.log_ratio is None:
        methods.append(lambda: elbo_of_model(model, params, keys[1], images, batch_size))
    else:
        options = {"batch_size": batch_size, "fit_steps": fit_steps, "progress": progress}
        methods += elbo_of_implicit(model, params, keys[1:], images, **options)
    return [
        {**entry, **(about or {}), "seed": seed} for method in methods for entry in _timed(method)
    ]


def _timed(method: Callable[[], list[Entry]]) -> list[Entry]:
    start = time.perf_counter()
    entries = method()
    seconds = round(time.perf_counter() - start, 2)
    return [{**entry, "seconds": seconds} for entry in entries]


def _by_importance(
    model: Any, params: Tree, key: Key, images: Any, *, num_samples: int, **options
) -> list[Entry]:
    result = evaluate_log_likelihood(model, params, key, images, num_samples=num_samples, **options)
    entry = {
        "name": "log_likelihood",
        "kind": "lower bound",
        **summarise(result.log_likelihood),
        "effective_sample_size": float(np.mean(result.effective_sample_size)),
        "method": "importance sampling, Student t fitted to draws of q",
        "num_samples": num_samples,
    }
    return [entry]


def _by_quadrature(model: Any, params: Tree, images: Any) -> list[Entry]:
    def exact(_, x):
        return quadrature_log_likelihood(model, params, x)

    entry = {
        "name": "log_likelihood",
        "kind": "exact",
        **summarise(in_batches(exact, images, QUADRATURE_BATCH)),
        "method": "quadrature over a grid of z",
    }
    return [entry]
