"""The ELBO: by a critic, trained or fitted to a frozen q, by a bracket, and on a grid."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from avb_jax.critic_fit import CriticFit, fit_critic
from avb_jax.densities import log_prior
from avb_jax.evaluation.batches import in_batches
from avb_jax.evaluation.bracket import Bracket, elbo_bracket
from avb_jax.evaluation.iwae import is_explicit
from avb_jax.evaluation.quadrature import quadrature_elbo
from avb_jax.types import Array, Key, Tree, View

ELBO_SAMPLES = 16  # draws of q per data point
IMAGES = 1000  # whose posteriors are fitted, and bracketed
GRID_IMAGES = 20  # the same, where they are put on a grid too
DRAWS = 2**14  # of q, over all images; at least 32 for each
GRID_KERNELS = 2**25  # over all of them
KERNELS = 2**23  # over all images; at least 4096 and at most 2^21 for each
ROWS = 512  # draws on the device at once

Entry = dict[str, Any]  # of evaluation.json


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


def fit_posterior(
    model: Any, params: Tree, key: Key, x: Array, *, max_steps: int, progress: bool = False
) -> CriticFit:
    """`fit_critic` on q(z|x) of a frozen encoder, over these x.

    Args:
        model: see `avb_jax.Model`.
        params: its parameters.
        key: the same key gives the same fit.
        x: [n, ...], the data points whose posteriors are fitted together.
        max_steps: see `fit_critic`.
        progress: whether to show a bar.
    """

    def context(x):
        return View(x, model.encode(params, jax.random.key(0), x, 1).features, None).context

    return fit_critic(
        key,
        lambda key, x: model.sample_posterior(params, key, x, 1)[0],
        model.latent_dim,
        x=jnp.asarray(x),
        context=jax.jit(context),
        max_steps=max_steps,
        progress=progress,
    )


def fitted_elbo(
    model: Any, params: Tree, key: Key, x: Array, fit: CriticFit, num_samples: int = ELBO_SAMPLES
) -> Array:
    """`elbo_estimate` by a fitted critic: [B] nats, an estimate and no bound.

    Its mean over the x of the fit, plus `reference_mean_ratio` − 1 of the fit's calibration, is
    an upper bound of their mean ELBO in expectation (`Calibration.kl_lower_bound`).
    """
    return _fitted(model, params, key, x, fit, num_samples)["elbo"]


def _fitted(model: Any, params: Tree, key: Key, x: Array, fit: CriticFit, num_samples: int):
    """The ELBO and KL(q‖p(z)) by a fitted critic, [B] nats each."""
    x = jnp.asarray(x)
    z = model.sample_posterior(params, key, x, num_samples)
    log_q = jax.vmap(fit.log_density, (None, 0))(x, z)
    terms = {"elbo": model.log_joint(params, x, z) - log_q, "kl_to_prior": log_q - log_prior(z)}
    return {name: jnp.mean(term, axis=0) for name, term in terms.items()}


def summarise(values: np.ndarray | Array) -> Entry:
    """Mean over data points, and its standard error over them."""
    values = np.asarray(values, np.float64)
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    return {
        "value": float(values.mean()),
        "stderr": float(spread / np.sqrt(values.size)),
        "n": int(values.size),
    }


def elbo_of_model(model: Any, params: Tree, key: Key, images: Any, batch_size: int) -> list[Entry]:
    """By the model's own log q: exact for an explicit encoder, else its trained critic's."""

    def estimate(index, x):
        return {"elbo": elbo_estimate(model, params, jax.random.fold_in(key, int(index[0])), x)}

    entry = {
        "name": "elbo",
        "kind": "lower bound" if is_explicit(model) else "estimate",
        **summarise(in_batches(estimate, images, batch_size)["elbo"]),
        "method": "own log q" if is_explicit(model) else "trained critic",
        "num_samples": ELBO_SAMPLES,
    }
    return [entry]


def elbo_of_implicit(
    model: Any, params: Tree, keys: Key, images: Any, *, batch_size: int, fit_steps: int, progress
) -> list[Callable[[], list[Entry]]]:
    """What tells the ELBO of an implicit encoder, each a function that returns entries.

    They are of the first `IMAGES` images: `elbo` as an estimate and an upper bound by a fitted
    critic, and so `kl_to_prior` as a lower bound; both as lower and upper bounds where the encoder
    has a kernel; and, for `GRID_IMAGES` alone, `elbo` as exact where D = 2 and a grid can hold q.
    """
    one = jnp.asarray(images[np.arange(1)])
    kernel = jax.eval_shape(lambda: model.encode(params, keys[0], one, 2)).kernel
    on_grid = kernel is not None and model.latent_dim == 2 and len(kernel.scale_tril) == 1
    x = images[np.arange(min(GRID_IMAGES if on_grid else IMAGES, len(images)))]
    methods: list[Callable[[], list[Entry]]]
    if fit_steps:
        methods = [partial(_by_fit, model, params, keys, x, fit_steps, progress)]
    else:
        methods = [partial(elbo_of_model, model, params, keys[0], x, batch_size)]
    # Fit, bracket and grid have the same draws: what differs is log q alone.
    if kernel is not None:
        methods.append(partial(_by_bracket, model, params, keys[1], x, progress))
    if on_grid:
        methods.append(partial(_by_grid, model, params, keys[1], x))
    return methods


def _sizes(x: Array) -> tuple[int, int]:
    """Draws of q for each x, more where there are few x; and how many x at once."""
    draws = max(32, DRAWS // len(x))
    return draws, max(1, ROWS // draws)


def _by_fit(
    model: Any, params: Tree, keys: Key, x: Array, max_steps: int, progress: bool
) -> list[Entry]:
    fit = fit_posterior(model, params, keys[0], x, max_steps=max_steps, progress=progress)
    draws, batch_size = _sizes(x)

    def of_batch(index, x):
        # Of the draws of `elbo_bracket`.
        key_own, _ = jax.random.split(jax.random.fold_in(keys[1], int(index[0])))
        return _fitted(model, params, key_own, x, fit, draws)

    found = {name: summarise(a) for name, a in in_batches(of_batch, x, batch_size).items()}
    excess = fit.calibration.reference_mean_ratio - 1.0
    common = {
        "method": "fitted critic",
        "num_samples": draws,
        "calibration": fit.calibration._asdict(),
    }

    def bound(name: str, kind: str, excess: float) -> Entry:
        entry = {"name": name, "kind": kind, **found[name], **common}
        stderr = math.hypot(entry["stderr"], fit.calibration.reference_mean_ratio_stderr)
        return {**entry, "value": entry["value"] + excess, "stderr": stderr}

    return [
        {"name": "elbo", "kind": "estimate", **found["elbo"], **common},
        bound("elbo", "upper bound", excess),
        bound("kl_to_prior", "lower bound", -excess),
    ]


def _by_grid(model: Any, params: Tree, key: Key, x: Array) -> list[Entry]:
    draws, batch_size = _sizes(x)
    counts = {"num_samples": draws, "num_kernels": 2 ** int(np.log2(GRID_KERNELS // len(x)))}

    def of_batch(index, x):
        key_batch = jax.random.fold_in(key, int(index[0]))
        return {"elbo": quadrature_elbo(model, params, key_batch, jnp.asarray(x), **counts)}

    found = summarise(in_batches(of_batch, x, batch_size)["elbo"])
    return [{"name": "elbo", "kind": "exact", "method": "quadrature", **found, **counts}]


def _by_bracket(model: Any, params: Tree, key: Key, x: Array, progress: bool) -> list[Entry]:
    draws, batch_size = _sizes(x)
    kernels = 2 ** int(np.log2(np.clip(KERNELS // len(x), 4096, 2**21)))
    counts = {"num_samples": draws, "num_kernels": kernels}

    def of_batch(index, x):
        key_batch = jax.random.fold_in(key, int(index[0]))
        return elbo_bracket(model, params, key_batch, x, **counts)._asdict()

    found = in_batches(of_batch, x, batch_size, progress=progress)
    means = Bracket(*(jnp.asarray(found[name]) for name in Bracket._fields))
    if bad := int(np.sum(np.isnan(means.log_q_upper))):
        logging.warning(
            "The bracket is left out: the posteriors of %d of %d images end in Gaussians narrower "
            "than float32 resolves.", bad, len(x),
        )  # fmt: skip
        return []
    bounds = [
        ("elbo", "lower bound", means.elbo_lower),
        ("elbo", "upper bound", means.elbo_upper),
        ("kl_to_prior", "lower bound", means.kl_lower),
        ("kl_to_prior", "upper bound", means.kl_upper),
    ]
    return [
        {"name": name, "kind": kind, **summarise(values), "method": "semi-implicit", **counts}
        for name, kind, values in bounds
    ]
