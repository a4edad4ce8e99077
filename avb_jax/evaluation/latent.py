"""What a model makes of its latent space: how much of it is used, how well it fits the prior."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.critic_fit import fit_critic
from avb_jax.densities import log_prior
from avb_jax.evaluation.batches import Found, in_batches
from avb_jax.types import Array, Key, Tree

DRAWS = 64  # of q(z|x) for each x
ACTIVE = 0.01  # least variance of an active unit's mean
PROBE_FOLDS = 5


@partial(jax.jit, static_argnames=("model", "num_samples"))
def _of_batch(model: Any, params: Tree, key: Key, x: Array, num_samples: int) -> dict[str, Array]:
    key_z, key_q = jax.random.split(key)
    z = model.sample_posterior(params, key_z, x, num_samples)
    log_q = model.log_posterior_estimate(params, key_q, x, z)
    log_p = log_prior(z)
    half = num_samples // 2
    return {
        "distortion": jnp.mean(log_p - model.log_joint(params, x, z), axis=0),
        "rate": jnp.mean(log_q - log_p, axis=0),
        "draw": z[0],
        "means": jnp.stack([jnp.mean(z[:half], axis=0), jnp.mean(z[half:], axis=0)], axis=1),
    }


def describe_posteriors(
    model: Any, params: Tree, key: Key, images: Any, batch_size: int = 100, progress: bool = False
) -> Found:
    """Rate, distortion, a draw and two independent means of q(z|x) for each x, from `DRAWS` draws.

    Returns:
        `rate` [n]: KL(q(z|x)‖p(z)), nats, by the model's own log q: unbiased for an explicit
            encoder, by its trained critic for an implicit one, which flatters.
        `distortion` [n]: −E_q log p(x|z), nats, unbiased. Their sum is minus the ELBO (Alemi,
            Poole, Fischer, Dillon, Saurous and Murphy, "Fixing a Broken ELBO", ICML 2018).
        `draw` [n, D]: one z ~ q(z|x).
        `means` [n, 2, D]: the means of either half of the draws.
    """

    def of_batch(index, x):
        key_batch = jax.random.fold_in(key, int(index[0]))
        return _of_batch(model, params, key_batch, jnp.asarray(x), DRAWS)

    return in_batches(of_batch, images, batch_size, progress=progress)


def unit_activities(means: np.ndarray) -> np.ndarray:
    """Var_x E_q[z_d], the activity of each latent unit; above 0.01 it is active: [D].

    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, section 5.1. By
    the covariance of two independent means of each x, so that the error of either adds nothing.

    Args:
        means: [n, 2, D].
    """
    first, second = np.moveaxis(np.asarray(means, np.float64), 1, 0)
    first = first - first.mean(axis=0)
    return np.sum(first * (second - second.mean(axis=0)), axis=0) / (len(first) - 1)


def aggregate_kl(
    model: Any,
    params: Tree,
    key: Key,
    x: Array,
    draws: Array | np.ndarray,
    *,
    max_steps: int,
    progress: bool = False,
) -> np.ndarray:
    """log q̂(z) − log p(z) at draws of each q(z|x), nats: [m]; its mean estimates KL(q(z)‖p(z)).

    q(z) = E_x q(z|x) is the aggregate posterior, over these x (Hoffman and Johnson, "ELBO
    surgery", 2016; Makhzani et al. 2016), and its density that of a critic fitted to its draws,
    which misses some: the estimate is low by that. E_x KL(q(z|x)‖p(z)) − KL(q(z)‖p(z)) is the
    mutual information of x and z, at most log n.

    Args:
        model: with `sample_posterior(params, key, x, S)`.
        params: its parameters.
        key: of the fit.
        x: [n, ...].
        draws: [m, D], as many z ~ q(z|x) for each x, that the fit has not seen.
        max_steps: see `fit_critic`.
        progress: whether to show a bar.
    """
    x = jnp.asarray(x)

    def sample(key, count):
        key_x, key_z = jax.random.split(key)
        some = x[jax.random.randint(key_x, (count,), 0, len(x))]
        return model.sample_posterior(params, key_z, some, 1)[0]

    fit = fit_critic(
        key, sample, draws.shape[-1], contrast="moments", max_steps=max_steps, progress=progress
    )
    return np.asarray(fit.log_density(draws) - log_prior(jnp.asarray(draws)), np.float64)


def can_be_probed(labels: np.ndarray) -> bool:
    """Whether two classes or more have a member for each fold, so that no fold trains on one."""
    counts = np.unique(labels, return_counts=True)[1]
    return int(np.sum(counts >= PROBE_FOLDS)) >= 2


def linear_probe_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of labels that a logistic regression on `features` [n, D] gets right, out of sample.

    Five-fold cross-validation over these data (Alain and Bengio, "Understanding intermediate
    layers using linear classifier probes", 2016).

    Raises:
        ValueError: unless two classes or more have at least 5 members.
    """
    if not can_be_probed(labels):
        counts = np.unique(labels, return_counts=True)[1].tolist()
        raise ValueError(
            f"labels had classes of {counts} members; allowed are two or more of at least "
            f"{PROBE_FOLDS}"
        )
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    classifier = LogisticRegression(max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer members than folds
        return float(np.mean(cross_val_score(classifier, features, labels, cv=PROBE_FOLDS)))
