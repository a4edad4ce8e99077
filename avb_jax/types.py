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
    """

    mean: Array
    covariance: Array


class Encoding(NamedTuple):
    """What an encoder returns: draws of q(z|x), and what it knows of q beside them.

    Attributes:
        z: [S, B, D], draws of q(z|x).
        moments: those of q(z|x), where they are linear algebra; None where only draws tell.
        density: q(z|x) itself, where it is Gaussian (an explicit encoder); else None.
        features: [B, F], all that q(z|x) depends on x by, for the critic to condition on; None
            where there is no such trunk, and the critic sees x.
    """

    z: Array
    moments: Moments | None = None
    density: Gaussian | None = None
    features: Array | None = None

    def context(self, x: Array) -> Array:
        """What a critic conditions on: the features, else x [B, ...]."""
        return x if self.features is None else self.features


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
ScoreFn = Callable[[Array], Array]
DecodeFn = Callable[[Tree, Array], Tree]
LogLikelihoodFn = Callable[[Tree, Array], Array]
LogRatioFn = Callable[[Tree, Array, Array], Array]
