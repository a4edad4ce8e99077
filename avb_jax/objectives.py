"""Critic losses and the ELBO's terms, per example, on plain arrays (nats).

`elbo*` is to be maximised, `*_loss` minimised. None of these functions reduces over
samples or data points: the step does, in one place.
"""

import warnings

import jax
import jax.numpy as jnp

from avb_jax.choices import CRITIC_LOSSES
from avb_jax.densities import LOG_2PI
from avb_jax.types import Array, Gaussian, Moments


def critic_loss(name: str, s_q: Array, s_r: Array) -> Array:
    """Per-sample critic losses, to be minimised over ψ.

    | name | loss | its optimum |
    |---|---|---|
    | `logistic` | softplus(−s_q) + softplus(s_r) | s = log q − log r (paper, equation 3.3) |
    | `exp` | exp(s_r) − s_q | the same; 1 − its mean is a lower bound of KL(q‖r), in nats |
    | `exp_as_written` | exp(T) − T at z_q alone | T = 0, whatever q is |

    Args:
        name: one of `CRITIC_LOSSES`.
        s_q: [S, B], the critic's log ratio at z ~ q(z|x); T(x, z_q) for `exp_as_written`.
        s_r: [S, B], the log ratio at z ~ r(z|x); `exp_as_written` does not look at it.

    Returns:
        [S, B].

    Raises:
        ValueError: for any other name.

    Examples:
        A critic that has learned nothing says s = 0, and has the losses 2 log 2 and 1:

        >>> s = jnp.zeros((1, 1))
        >>> critic_loss("logistic", s, s).round(4), critic_loss("exp", s, s)
        (Array([[1.3863]], dtype=float32), Array([[1.]], dtype=float32))
        >>> critic_loss("hinge", s, s)
        Traceback (most recent call last):
        ValueError: critic_loss was 'hinge'; allowed are logistic, exp, exp_as_written
    """
    if name == "logistic":
        return jax.nn.softplus(-s_q) + jax.nn.softplus(s_r)
    if name == "exp":
        return jnp.exp(s_r) - s_q
    if name == "exp_as_written":
        return jnp.exp(s_q) - s_q
    raise ValueError(f"critic_loss was {name!r}; allowed are {', '.join(CRITIC_LOSSES)}")


def warn_if_as_written(name: str) -> None:
    """Warns when the critic objective is the one whose optimum is T = 0."""
    if name == "exp_as_written":
        warnings.warn(
            "critic_loss 'exp_as_written' has its optimum at T = 0 whatever q is: the critic "
            "learns nothing and the posterior collapses to a point; 'exp' is its repair",
            UserWarning,
            stacklevel=2,
        )


def gaussian_entropy(log_scale: Array, dim: int) -> Array:
    """Entropy of a Gaussian, ½ log|C| + D/2 (1 + log 2π), in nats.

    Args:
        log_scale: [B], ½ log|C|.
        dim: D.

    Returns:
        [B].

    Examples:
        >>> gaussian_entropy(jnp.log(jnp.array([1.0, 0.5])), dim=1).round(3)
        Array([1.419, 0.726], dtype=float32)
    """
    return log_scale + 0.5 * dim * (1.0 + LOG_2PI)


def kl_to_prior(q: Gaussian) -> Array:
    """KL(q‖N(0, I)) of a Gaussian in closed form, nats: [B].

    Examples:
        >>> kl_to_prior(Gaussian(mean=jnp.ones((1, 2)), scale_tril=jnp.eye(2)[None]))
        Array([1.], dtype=float32)
    """
    diagonal = jnp.diagonal(q.scale_tril, axis1=-2, axis2=-1)
    squares = jnp.sum(jnp.square(q.scale_tril), axis=(-2, -1)) + jnp.sum(
        jnp.square(q.mean), axis=-1
    )
    return 0.5 * (squares - q.mean.shape[-1]) - jnp.sum(jnp.log(diagonal), axis=-1)


def cross_entropy_to_prior(q: Moments) -> Array:
    """−E_q log N(z; 0, I) of any q with these moments, nats: [B]."""
    trace = jnp.trace(q.covariance, axis1=-2, axis2=-1)
    squares = jnp.sum(jnp.square(q.mean), axis=-1) + trace
    return 0.5 * (squares + q.mean.shape[-1] * LOG_2PI)


def balance(s_q: Array, s_r: Array) -> Array:
    """E_q[σ(−s)] − E_r[σ(s)]: zero for a critic that is right, whatever q and r are.

    Examples:
        A critic that says everywhere that q is denser than r by one nat:

        >>> balance(jnp.ones((1, 1)), jnp.ones((1, 1))).round(3)
        Array(-0.462, dtype=float32)
    """
    return jnp.mean(jax.nn.sigmoid(-s_q)) - jnp.mean(jax.nn.sigmoid(s_r))
