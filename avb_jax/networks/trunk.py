"""What posteriors know of x before noise comes in: features, and a Gaussian guess of z."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import zeros

from avb_jax.networks.layers import MLP, Convolutions, flatten_images, triangular
from avb_jax.types import Answers, Array, Gaussian

INITIAL_SCALE = 0.5  # of q(z|x), in units of the prior's
SURVEY_SPAN = 3.0  # of the survey's grid on each side of 0, in the prior's standard deviations
SURVEY_NATS = 8.0  # its higher temperature


class TriangularScale(nn.Module):
    """L(h), lower triangular: it starts at `start` times the identity, and no step of any size
    makes it singular."""

    latent_dim: int
    full: bool = True
    start: float = INITIAL_SCALE

    @nn.compact
    def __call__(self, h: Array) -> Array:
        dim = self.latent_dim
        start = nn.initializers.constant(math.log(self.start))
        log_scale = nn.Dense(dim, kernel_init=zeros, bias_init=start)(h)
        entries = jnp.zeros((h.shape[0], dim, dim), h.dtype)
        if self.full:
            entries = nn.Dense(dim * dim, kernel_init=zeros)(h).reshape(-1, dim, dim)
        return triangular(entries, log_scale)


class Trunk(nn.Module):
    """What every posterior but `noise-conv` starts from: features of x [B, F], a `Gaussian` guess.

    With a `survey` it is told log p(x, z) on a grid over the prior, of so many points a side: one
    decoding serves all x. The guess then starts from the grid's posterior mean.

    The guess is linear in the features, m and L, and then corrected `refinements` times by a
    network that has seen the score at m (iterative amortised inference: Marino, Yue and Mandt,
    "Iterative Amortized Inference", ICML 2018). It sees Lᵀ ∇ log p(x, m) and moves m by L times
    what it says: both in units of the guess, which may be a tenth or a thousandth of the prior's.
    The features hold what was seen.
    """

    latent_dim: int
    width: int
    depth: int
    refinements: int = 0
    survey: int = 0
    refinement_width: int = 256
    full: bool = True
    channels: int | None = None  # of the first of its convolutions; None: it is an MLP
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, answers: Answers) -> tuple[Array, Gaussian]:
        dim, width = self.latent_dim, self.refinement_width
        if self.channels:
            features = [Convolutions(self.width, self.channels, self.dtype)(x)]
        else:
            features = [MLP(self.width, self.depth, self.dtype)(flatten_images(x))]
        dense = partial(nn.Dense, width, dtype=self.dtype)

        def with_answer(seen: Array) -> list[Array]:
            h = dense()(features[-1]) + dense(use_bias=False)(seen)
            return [features[0], nn.gelu(dense()(nn.gelu(h))).astype(x.dtype)]

        start: Array | float = 0.0
        if self.survey:
            start, seen = look_around(answers, dim, self.survey, x.dtype)
            features = with_answer(seen)
        m = start + nn.Dense(dim)(features[-1])
        scale = TriangularScale(dim, self.full)(features[-1])
        for _ in range(self.refinements):
            whitened = jnp.einsum("bde,bd->be", scale, answers.score(m))
            features = with_answer(jnp.concatenate([m, jnp.arcsinh(whitened)], axis=-1))
            move = nn.Dense(dim, kernel_init=zeros)(features[-1])
            m = m + jnp.einsum("bde,be->bd", scale, move)
            scale = scale @ TriangularScale(dim, self.full, start=1.0)(features[-1])
        return jnp.concatenate(features, axis=-1), Gaussian(m, scale)


def look_around(answers: Answers, dim: int, side: int, dtype: Any) -> tuple[Array, Array]:
    """The mean of p(z|x) on a grid of side^D points, [B, D], and what a network sees of it, [B, F].

    That is p(z|x), normalised over the grid, the same at a higher temperature, and log p(x, z) less
    its maximum.
    """
    assert answers.survey is not None  # of every decoder
    axis = jnp.linspace(-SURVEY_SPAN, SURVEY_SPAN, side, dtype=dtype)
    z = jnp.stack(jnp.meshgrid(*[axis] * dim), axis=-1).reshape(-1, dim)
    log_joint = answers.survey(z).T
    log_joint = log_joint - jnp.max(log_joint, axis=-1, keepdims=True)
    near, tempered = jax.nn.softmax(log_joint), log_joint / SURVEY_NATS
    seen = jnp.concatenate([near, jax.nn.softmax(tempered), jnp.arcsinh(tempered)], axis=-1)
    return near @ z, seen
