"""Encoders: (x [B, h, w, c], key, S, answers) -> `Encoding` of S draws of q(z|x) for each x.

The x-trunk runs once per x however many draws are asked for. Noise is drawn here, in the
dtype of x; hidden layers compute in `dtype`, where it is given. `Answers` are the decoder's.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import zeros

from avb_jax.densities import draw_kernel
from avb_jax.networks.layers import (
    MLP,
    Convolution,
    downsampled_sizes,
    stage_features,
)
from avb_jax.networks.trunk import TriangularScale, Trunk
from avb_jax.types import Answers, Array, Encoding, Gaussian, Kernel, Key, Moments

MOMENT_DRAWS = 512  # least number of draws behind the moments of the noise bases
INITIAL_BLUR, LEAST_BLUR = 0.5, 0.005  # of the noise that ends noise-mlp, in units of L(h)


class NoiseHead(nn.Module):
    """q(z|x, ε) = N(m + L (ε₁..D + f(h, ε)), L diag(τ²) Lᵀ): noise meets the features of x.

    ε is concatenated to the features of x and injected again at every layer of f. The output
    layer of f starts at zero, so that q starts as a Gaussian of full covariance. m, L and τ are
    functions of h; τ, the blur, makes q semi-implicit. Sharp edges shrink it, to `LEAST_BLUR`.
    """

    width: int
    depth: int
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, guess: Gaussian, noise: Array) -> Kernel:
        dim, dense = guess.mean.shape[-1], partial(nn.Dense, self.width, dtype=self.dtype)
        g = nn.gelu(dense()(h)[None] + dense(use_bias=False)(noise))
        for _ in range(self.depth):
            inner = dense()(g) + dense(use_bias=False)(noise)
            g = g + dense()(nn.gelu(inner))
        warp = nn.Dense(dim, kernel_init=zeros)(g.astype(h.dtype))
        start = math.log((INITIAL_BLUR - LEAST_BLUR) / (1.0 - INITIAL_BLUR))
        bias_init = nn.initializers.constant(start)
        blur = nn.sigmoid(nn.Dense(dim, kernel_init=zeros, bias_init=bias_init, name="blur")(h))
        blur = LEAST_BLUR + (1.0 - LEAST_BLUR) * blur
        moved = jnp.einsum("bde,sbe->sbd", guess.scale_tril, noise[..., :dim] + warp)
        return Kernel(guess.mean[None] + moved, (guess.scale_tril * blur[:, None, :])[None])


class NoiseMLP(nn.Module):
    """`noise-mlp`: an MLP trunk over x, then a `NoiseHead`."""

    trunk: Trunk
    noise_dim: int
    head_width: int
    head_depth: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, key: Key, num_samples: int, answers: Answers) -> Encoding:
        h, guess = self.trunk(x, answers)
        keys = jax.random.split(key)
        noise = jax.random.normal(keys[0], (num_samples, x.shape[0], self.noise_dim), x.dtype)
        head = NoiseHead(self.head_width, self.head_depth, self.dtype)
        kernel = head(h, guess, noise)
        return Encoding(draw_kernel(keys[1], kernel), features=h, kernel=kernel)


class NoiseConv(nn.Module):
    """`noise-conv`: strided convolutions with ε injected after each (paper, section 6.2).

    The first convolution, the one on x alone, is the trunk; the last layer is a Gaussian.
    """

    latent_dim: int
    noise_dim: int
    width: int
    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, key: Key, num_samples: int, answers: Answers) -> Encoding:
        keys, shape, dim = jax.random.split(key), (num_samples, x.shape[0]), self.latent_dim
        noise = jax.random.normal(keys[0], (num_samples * x.shape[0], self.noise_dim), x.dtype)
        stages = len(downsampled_sizes(*x.shape[1:3]))

        def conv(stage: int, h: Array) -> Array:
            features = stage_features(self.channels, stage)
            resize = "halve" if stage + 1 < stages else "same"
            return Convolution(features, resize, name=f"Conv_{stage}", dtype=self.dtype)(h)

        h = conv(0, 2.0 * x - 1.0)
        h = jnp.broadcast_to(h[None], (num_samples, *h.shape)).reshape(-1, *h.shape[1:])
        for stage in range(1, max(stages, 2) + 1):
            injected = nn.Dense(h.shape[-1], use_bias=False, dtype=self.dtype)(noise)
            h = nn.gelu(h + injected[:, None, None, :])
            if stage < max(stages, 2):
                h = conv(stage, h)
        h = nn.gelu(nn.Dense(self.width, dtype=self.dtype)(h.reshape(h.shape[0], -1)))
        h = h.astype(x.dtype)
        mean, scale_tril = nn.Dense(dim)(h), TriangularScale(dim)(h)
        kernel = Kernel(mean.reshape(*shape, dim), scale_tril.reshape(*shape, dim, dim))
        return Encoding(draw_kernel(keys[1], kernel), kernel=kernel)


class Basis(nn.Module):
    """`basis`: q(z|x, ε) = N(z₀(x) + A(x) v(ε), L(x) L(x)ᵀ), v one network of the noise alone.

    A = L B with B learned, in units of that Gaussian. Mean and full covariance of q(z|x) are
    linear algebra over the moments of v, which do not depend on x: m = z₀ + A E v,
    C = A Cov(v) Aᵀ + L Lᵀ. They are those of all the noise of the batch, or of `MOMENT_DRAWS`.
    The M features are bounded, and so far from Gaussian. With A(x) made of diagonal blocks this
    is the paper's (section 6.2).
    """

    trunk: Trunk
    noise_dim: int
    num_bases: int
    basis_width: int = 64

    @nn.compact
    def __call__(self, x: Array, key: Key, num_samples: int, answers: Answers) -> Encoding:
        h, (location, scale_tril) = self.trunk(x, answers)
        keys, dim, rows = jax.random.split(key), location.shape[-1], num_samples * x.shape[0]
        noise = jax.random.normal(keys[0], (max(rows, MOMENT_DRAWS), self.noise_dim), x.dtype)
        v = nn.tanh(nn.Dense(self.num_bases)(MLP(self.basis_width, 2)(noise)))
        mean_v, centred = jnp.mean(v, axis=0), v - jnp.mean(v, axis=0)[None]
        covariance_v = jnp.einsum("nk,nl->kl", centred, centred) / (len(v) - 1)
        amplitudes = nn.Dense(dim * self.num_bases, kernel_init=zeros)(h)
        b = amplitudes.reshape(-1, dim, self.num_bases)
        a = jnp.einsum("bde,bek->bdk", scale_tril, b)
        v = v[:rows].reshape(num_samples, x.shape[0], self.num_bases)
        mean = location[None] + jnp.einsum("bdk,sbk->sbd", a, v)
        kernel = Kernel(mean, scale_tril[None])
        # C = L (B Cov(v) Bᵀ + I) Lᵀ: what is factorised is never singular, whatever L is.
        spread = jnp.einsum("bdk,kl,bel->bde", b, covariance_v, b)
        factor = scale_tril @ jnp.linalg.cholesky(spread + jnp.eye(dim, dtype=x.dtype)[None])
        covariance = jnp.einsum("bdf,bef->bde", factor, factor)
        moments = Moments(location + jnp.einsum("bdk,k->bd", a, mean_v), covariance, factor)
        z = draw_kernel(keys[1], kernel)
        return Encoding(z, moments, features=h, kernel=kernel, mirror=2.0 * kernel.mean - z)


class GaussianEncoder(nn.Module):
    """`gaussian` and `gaussian-full`: the explicit posteriors of the standard VAE."""

    trunk: Trunk

    @nn.compact
    def __call__(self, x: Array, key: Key, num_samples: int, answers: Answers) -> Encoding:
        _, density = self.trunk(x, answers)
        noise = jax.random.normal(key, (num_samples, *density.mean.shape), x.dtype)
        moved = jnp.einsum("bde,sbe->sbd", density.scale_tril, noise)
        mean = density.mean[None]
        return Encoding(mean + moved, density=density, mirror=mean - moved)
