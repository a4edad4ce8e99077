"""Array aliases, shape letters and the records that pass between modules.

Shape letters, the same in every docstring: `B` data points, `S` noise samples per data
point, `D` latent dimension, `N` noise dimension, `...` the event shape of x. All
log-densities are in nats.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array
Tree = Any


class Gaussian(NamedTuple):
    """N(mean, scale_tril scale_trilᵀ), one for each data point.

    Attributes:
        mean: [B, D].
        scale_tril: [B, D, D], lower triangular with a positive diagonal.
    """

    mean: Array
    scale_tril: Array


class Moments(NamedTuple):
    """Mean and covariance of q(z|x), one pair for each data point.

    Attributes:
        mean: [B, D].
        covariance: [B, D, D].
        scale_tril: its Cholesky factor, [B, D, D], where the encoder knows it to more digits than
            the covariance holds; else it is computed.
    """

    mean: Array
    covariance: Array
    scale_tril: Array | None = None


class Kernel(NamedTuple):
    """q(z|x, ε), the Gaussian that ends a semi-implicit encoder: q(z|x) = E_ε q(z|x, ε).

    Yin and Zhou, "Semi-Implicit Variational Inference", ICML 2018, section 2.

    Attributes:
        mean: [S, B, D], one for each draw of ε.
        scale_tril: [S, B, D, D], or [1, B, D, D] where ε does not move it; lower triangular
            with a positive diagonal.
    """

    mean: Array
    scale_tril: Array


class Answers(NamedTuple):
    """What p says to an encoder about the x of a batch, its decoder held.

    Attributes:
        score: z [B, D] -> ∇_z log p(x, z) [B, D], one z for each x.
        survey: z [K, D] -> log p(x, z) [K, B] in nats, the same z for all x; None where it is not
            to be had.
    """

    score: Callable[[Array], Array]
    survey: Callable[[Array], Array] | None = None


class Autoregression(NamedTuple):
    """A step of an inverse autoregressive flow, u_d -> μ_d(u_<d) + σ_d(u_<d) u_d.

    Attributes:
        context: [B, H], what x adds to the hidden units.
        into: [D, H], weights of u.
        out: [H, 2 D], weights of the hidden units in μ and log σ.
        bias: [B, 2 D], what x adds to those.
    """

    context: Array
    into: Array
    out: Array
    bias: Array


class Flow(NamedTuple):
    """q(z|x), where z = mean + scale_tril u and u is N(0, I) moved by autoregressive steps.

    Attributes:
        base: the Gaussian that q is without its steps.
        steps: the first is taken first.
    """

    base: Gaussian
    steps: tuple[Autoregression, ...]


class Encoding(NamedTuple):
    """What an encoder returns: draws of q(z|x), and what it knows of q beside them.

    Attributes:
        z: [S, B, D], draws of q(z|x).
        moments: those of q(z|x), where they are linear algebra; None where only draws tell.
        density: q(z|x) itself, of an explicit encoder; else None.
        log_q: [S, B], log q(z|x) of these draws in nats, where that is a `Flow`; else None.
        features: [B, F], all that q(z|x) depends on x by, for the critic to condition on; None
            where there is no such trunk, and the critic sees x.
        kernel: q(z|x, ε) at the noise behind each draw, where the encoder is semi-implicit.
        mirror: [S, B, D], z with the noise of its last Gaussian reversed, as good a draw of q;
            None where that noise is small, and the two would nearly coincide.
    """

    z: Array
    moments: Moments | None = None
    density: Gaussian | Flow | None = None
    log_q: Array | None = None
    features: Array | None = None
    kernel: Kernel | None = None
    mirror: Array | None = None


class View(NamedTuple):
    """What a critic may know of x and of its contrast, beside the draws it judges.

    Attributes:
        x: [B, ...].
        features: the encoding's, [B, F], or None.
        reference: r(z|x), of whose coordinates z̃ are; None for the prior.
    """

    x: Array
    features: Array | None
    reference: Gaussian | None

    @property
    def context(self) -> Array:
        """What q depends on x by: the features, else x [B, ...]."""
        return self.x if self.features is None else self.features


class Params(NamedTuple):
    """The parameters of both players.

    Attributes:
        encoder: φ.
        decoder: θ.
        critic: ψ, with the contrast's own where it is learned; `{}` without a critic.
    """

    encoder: Tree
    decoder: Tree
    critic: Tree


InitFn = Callable[[Key], Params]
EncodeFn = Callable[[Params, Key, Array, int], Encoding]
DecodeFn = Callable[[Tree, Array], Tree]
MeanFn = Callable[[Tree], Array]
DrawFn = Callable[[Key, Tree], Array]
LogLikelihoodFn = Callable[[Tree, Array], Array]
LogRatioFn = Callable[[Params, View, Array], Array]
