"""Encoders: (x [B, h, w, c], key, S, score) -> `Encoding` of S draws of q(z|x) for each x.

The x-trunk runs once per x however many draws are asked for. Noise is drawn here, in the
dtype of x. `score` is z [B, D] -> ∇ log p(x, z) [B, D], the decoder's answer to a guess of z.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from avb_jax.networks.layers import (
    CONV_FEATURES,
    MLP,
    downsampled_sizes,
    flatten_images,
    triangular,
)
from avb_jax.types import Array, Encoding, Gaussian, Key, Moments, ScoreFn

MOMENT_DRAWS = 512  # least number of draws behind the moments of the noise bases
INITIAL_SCALE = 0.5  # of q(z|x), in units of the prior's
SCORE_SCALE = 0.1  # brings a score, tens of nats, to the size of the other inputs
zeros = nn.initializers.zeros_init()


class Trunk(nn.Module):
    """What every posterior of an MLP starts from: features of x [B, F] and a location [B, D].

    The location is a linear guess of z from the features, and then, `refinements` times, a
    correction of it that has seen the score there (iterative amortised inference: Marino, Yue
    and Mandt, "Iterative Amortized Inference", ICML 2018). The features hold what was seen.
    """

    latent_dim: int
    width: int
    depth: int
    refinements: int = 0
    refinement_width: int = 256

    @nn.compact
    def __call__(self, x: Array, score: ScoreFn) -> tuple[Array, Array]:
        width = self.refinement_width
        features = [MLP(self.width, self.depth)(flatten_images(x))]
        location = nn.Dense(self.latent_dim)(features[0])
        for _ in range(self.refinements):
            seen = jnp.concatenate([location, SCORE_SCALE * score(location)], axis=-1)
            h = nn.Dense(width)(features[-1]) + nn.Dense(width, use_bias=False)(seen)
            features = [features[0], nn.gelu(nn.Dense(width)(nn.gelu(h)))]
            location = location + nn.Dense(self.latent_dim, kernel_init=zeros)(features[-1])
        return jnp.concatenate(features, axis=-1), location


class TriangularScale(nn.Module):
    """L(h), lower triangular: it starts at INITIAL_SCALE times the identity, and no step of
    any size makes it singular."""

    latent_dim: int
    full: bool = True

    @nn.compact
    def __call__(self, h: Array) -> Array:
        dim = self.latent_dim
        start = nn.initializers.constant(math.log(INITIAL_SCALE))
        log_scale = nn.Dense(dim, kernel_init=zeros, bias_init=start)(h)
        entries = jnp.zeros((h.shape[0], dim, dim), h.dtype)
        if self.full:
            entries = nn.Dense(dim * dim, kernel_init=zeros)(h).reshape(-1, dim, dim)
        return triangular(entries, log_scale)


class NoiseHead(nn.Module):
    """z = m + L(h) (ε₁..D + f(h, ε)): noise meets the features of x nonlinearly.

    ε is concatenated to the features of x and injected again at every layer of f. The
    output layer of f starts at zero, so that q starts as a Gaussian of full covariance.
    """

    width: int
    depth: int

    @nn.compact
    def __call__(self, h: Array, location: Array, noise: Array) -> Array:
        dim = location.shape[-1]
        g = nn.gelu(nn.Dense(self.width)(h)[None] + nn.Dense(self.width, use_bias=False)(noise))
        for _ in range(self.depth):
            inner = nn.Dense(self.width)(g) + nn.Dense(self.width, use_bias=False)(noise)
            g = g + nn.Dense(self.width)(nn.gelu(inner))
        warp = nn.Dense(dim, kernel_init=zeros)(g)
        scale_tril = TriangularScale(dim)(h)
        return location[None] + jnp.einsum("bde,sbe->sbd", scale_tril, noise[..., :dim] + warp)


class NoiseMLP(nn.Module):
    """`noise-mlp`: an MLP trunk over x, then a `NoiseHead`."""

    trunk: Trunk
    noise_dim: int
    head_width: int
    head_depth: int

    @nn.compact
    def __call__(self, x: Array, key: Key, num_samples: int, score: ScoreFn) -> Encoding:
        h, location = self.trunk(x, score)
        noise = jax.random.normal(key, (num_samples, x.shape[0], self.noise_dim), x.dtype)
        head = NoiseHead(self.head_width, self.head_depth)
        return Encoding(head(h, location, noise), features=h)


class NoiseConv(nn.Module):
    """`noise-conv`: strided convolutions with ε injected after each (paper, section 6.2).

    The first convolution, the one on x alone, is the trunk.
    """

    latent_dim: int
    noise_dim: int
    width: int

    @nn.compact
    def __call__(self, x: Array, key: Key, num_samples: int, score: ScoreFn) -> Encoding:
        shape = (num_samples, x.shape[0])
        noise = jax.random.normal(key, (*shape, self.noise_dim), x.dtype)
        flat_noise = noise.reshape(-1, self.noise_dim)
        stages = len(downsampled_sizes(*x.shape[1:3]))
        h = nn.Conv(CONV_FEATURES[0], (5, 5), strides=2 if stages > 1 else 1)(2.0 * x - 1.0)
        h = jnp.broadcast_to(h[None], (num_samples, *h.shape)).reshape(-1, *h.shape[1:])
        for stage in range(1, max(stages, 2) + 1):
            injected = nn.Dense(h.shape[-1], use_bias=False)(flat_noise)
            h = nn.gelu(h + injected[:, None, None, :])
            if stage < max(stages, 2):
                features = CONV_FEATURES[min(stage, len(CONV_FEATURES) - 1)]
                h = nn.Conv(features, (5, 5), strides=2 if stage + 1 < stages else 1)(h)
        h = nn.gelu(nn.Dense(self.width)(h.reshape(h.shape[0], -1)))
        location, scale_tril = nn.Dense(self.latent_dim)(h), TriangularScale(self.latent_dim)(h)
        z = location + jnp.einsum("bde,be->bd", scale_tril, flat_noise[:, : self.latent_dim])
        return Encoding(z.reshape(*shape, self.latent_dim))


class Basis(nn.Module):
    """`basis`: z = z₀(x) + Σₖ aₖ(x) ⊙ vₖ(εₖ), k = 1 … K (paper, section 6.2).

    Mean and full covariance of q(z|x) are linear algebra over the moments of the vₖ,
    which do not depend on x: m = z₀ + Σ aₖ ⊙ E vₖ, C = Σ diag(aₖ) Cov(vₖ) diag(aₖ). The
    moments of the vₖ are those of all the noise of the batch, or of `MOMENT_DRAWS`.
    """

    trunk: Trunk
    noise_dim: int
    num_bases: int
    basis_width: int = 64

    @nn.compact
    def __call__(self, x: Array, key: Key, num_samples: int, score: ScoreFn) -> Encoding:
        h, location = self.trunk(x, score)
        dim = location.shape[-1]
        rows = num_samples * x.shape[0]
        count = max(rows, MOMENT_DRAWS)
        noise = jax.random.normal(key, (self.num_bases, count, self.noise_dim), x.dtype)
        over_bases = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        hidden = nn.vmap(MLP, **over_bases)(self.basis_width, 2)(noise)
        v = nn.vmap(nn.Dense, **over_bases)(dim)(jnp.concatenate([noise, hidden], -1))
        mean_v = jnp.mean(v, axis=1)
        centred = v - mean_v[:, None]
        covariance_v = jnp.einsum("kmd,kme->kde", centred, centred) / (count - 1)

        scale = INITIAL_SCALE / self.num_bases**0.5
        amplitudes = nn.Dense(self.num_bases * dim, bias_init=nn.initializers.constant(scale))(
            0.1 * h
        )
        a = amplitudes.reshape(-1, self.num_bases, dim)
        v = v[:, :rows].reshape(self.num_bases, num_samples, x.shape[0], dim)
        z = location[None] + jnp.einsum("bkd,ksbd->sbd", a, v)
        mean = location + jnp.einsum("bkd,kd->bd", a, mean_v)
        covariance = jnp.einsum("bkd,kde,bke->bde", a, covariance_v, a)
        return Encoding(z, moments=Moments(mean, covariance), features=h)


class GaussianEncoder(nn.Module):
    """`gaussian` and `gaussian-full`: the explicit posteriors of the standard VAE."""

    trunk: Trunk
    full: bool

    @nn.compact
    def __call__(self, x: Array, key: Key, num_samples: int, score: ScoreFn) -> Encoding:
        h, mean = self.trunk(x, score)
        density = Gaussian(mean, TriangularScale(mean.shape[-1], self.full)(h))
        noise = jax.random.normal(key, (num_samples, *mean.shape), x.dtype)
        z = mean[None] + jnp.einsum("bde,sbe->sbd", density.scale_tril, noise)
        return Encoding(z, density=density)
