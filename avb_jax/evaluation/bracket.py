"""A bracket of the ELBO and of KL(q‖p(z)), for a posterior whose density nobody can write down.

Both need E_q[log q(z|x)] alone. A semi-implicit encoder ends in a Gaussian, its kernel, so that
q(z|x) = E_ε q(z|x, ε), and a mean over M draws of ε bounds log q in expectation from both sides:

- with the ε that z came from among them, from above (Yin and Zhou, "Semi-Implicit Variational
  Inference", ICML 2018, theorem 1; Sobolev and Vetrov, "Importance Weighted Hierarchical
  Variational Inference", NeurIPS 2019, section 3): a lower bound of the ELBO;
- without it, from below, by Jensen's inequality (Titsias and Ruiz, "Unbiased Implicit
  Variational Inference", AISTATS 2019, section 2.2): an upper bound of the ELBO.

A fitted critic gives the other lower bound of KL, whatever the encoder: see `fit_posterior`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

from avb_jax.densities import log_kernel, log_own_kernel, log_prior
from avb_jax.types import Array, Kernel, Key, Tree

KERNEL_BLOCK = 1024  # kernels compared with the draws at once
NARROWEST = 100.0  # kernels that are wider than so many roundings of z can be told from others


class Bracket(NamedTuple):
    """Means over draws of q(z|x), one for each data point: [B] nats.

    Attributes:
        log_joint: E_q[log p(x, z)].
        log_prior: E_q[log p(z)].
        log_q_lower: at most E_q[log q(z|x)], in expectation.
        log_q_upper: at least that, in expectation.
    """

    log_joint: Array
    log_prior: Array
    log_q_lower: Array
    log_q_upper: Array

    @property
    def elbo_lower(self) -> Array:
        """A lower bound of the ELBO, and so of log p(x)."""
        return self.log_joint - self.log_q_upper

    @property
    def elbo_upper(self) -> Array:
        """An upper bound of the ELBO; of log p(x) it is no bound."""
        return self.log_joint - self.log_q_lower

    @property
    def kl_lower(self) -> Array:
        """A lower bound of KL(q(z|x)‖p(z))."""
        return self.log_q_lower - self.log_prior

    @property
    def kl_upper(self) -> Array:
        """An upper bound of KL(q(z|x)‖p(z))."""
        return self.log_q_upper - self.log_prior


def mixture_bounds(
    own: Kernel, z: Array, draw_kernels: Callable[[Key], Kernel], keys: Key
) -> tuple[Array, Array]:
    """Bounds (lower, upper) of log q(z|x) in expectation over z and ε: [S, B] nats each.

    Args:
        own: the kernels [S, B, …] that z came from.
        z: [S, B, D].
        draw_kernels: a block of kernels [m, B, …] of independent noise for each key.
        keys: one for each block; a block at a time is held.
    """

    def add_block(carry, key):
        total, count = carry
        kernel = draw_kernels(key)
        log_q = logsumexp(log_kernel(kernel, z), axis=0)
        return (jnp.logaddexp(total, log_q), count + len(kernel.mean)), None

    start = (jnp.full(z.shape[1::-1], -jnp.inf, z.dtype), jnp.zeros([], z.dtype))
    (total, count), _ = lax.scan(add_block, start, keys)
    total = total.T
    return total - jnp.log(count), jnp.logaddexp(total, log_own_kernel(own, z)) - jnp.log1p(count)


@partial(jax.jit, static_argnames=("model", "num_samples", "num_kernels"))
def elbo_bracket(
    model: Any,
    params: Tree,
    key: Key,
    x: Array,
    *,
    num_samples: int = 32,
    num_kernels: int = 4096,
) -> Bracket:
    """The bracket of a semi-implicit posterior: it closes as the number of kernels grows.

    Memory is that of `KERNEL_BLOCK` encodings of each x. Where kernels are so narrow that z lies in
    them by chance of rounding, there is no bound, and the x has NaN.

    Args:
        model: see `avb_jax.Model`; its encodings must have a kernel.
        params: its parameters.
        key: its first half is that of the draws, as of `model.sample_posterior`.
        x: [B, ...].
        num_samples: S, draws of q.
        num_kernels: M, a multiple of `KERNEL_BLOCK` or less than it.

    Raises:
        ValueError: if the encoder offers no kernel, or for another number of kernels.
    """
    if num_kernels < 1 or num_kernels % min(KERNEL_BLOCK, num_kernels):
        raise ValueError(
            f"num_kernels was {num_kernels}; allowed is a multiple of {KERNEL_BLOCK}, or less"
        )
    key_own, key_kernels = jax.random.split(key)
    own = model.encode(params, key_own, x, num_samples)
    if own.kernel is None:
        raise ValueError("the encoder offers no kernel; a bracket needs a semi-implicit one")
    block = min(KERNEL_BLOCK, num_kernels)
    lower, upper = mixture_bounds(
        own.kernel,
        own.z,
        lambda key: model.encode(params, key, x, block).kernel,
        jax.random.split(key_kernels, num_kernels // block),
    )
    widths = jnp.min(jnp.diagonal(own.kernel.scale_tril, axis1=-2, axis2=-1), axis=(0, 2))
    rounding = jnp.finfo(own.z.dtype).eps * jnp.max(jnp.abs(own.z), axis=(0, 2))
    resolved = (widths > NARROWEST * rounding)[None]
    lower, upper = (jnp.where(resolved, bound, jnp.nan) for bound in (lower, upper))
    terms = (model.log_joint(params, x, own.z), log_prior(own.z), lower, upper)
    return Bracket(*(jnp.mean(term, axis=0) for term in terms))
