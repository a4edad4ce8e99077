"""Coordinates in which tails are light: z = m + L sinh(w).

There tails that were exponential or Gaussian fall faster than those of the Gaussian contrast, so
that what the critic does not know of them cannot reward a draw for going astray (Johnson and Geyer,
"Variable transformation to obtain geometric ergodicity", Annals of Statistics 2012, map by such a
function for Markov chains).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from avb_jax.types import Array

NOWHERE = -1e4  # nats from the level, of a draw at which log_joint is not finite

LogDensity = Callable[[Array], Array]


class Start(NamedTuple):
    """A Gaussian from which to start.

    Attributes:
        mean: [D].
        scale_tril: [D, D].
    """

    mean: Array
    scale_tril: Array

    def place(self, u: Array) -> Array:
        """z = m + L u: [..., D] -> [..., D]."""
        moved = jnp.einsum("de,...e->...d", self.scale_tril, u)
        return jnp.broadcast_to(self.mean, u.shape) + moved

    def locate(self, z: Array) -> Array:
        """u = L⁻¹(z − m): [..., D] -> [..., D]."""
        flat = (z - jnp.broadcast_to(self.mean, z.shape)).reshape(-1, z.shape[-1])
        u = jax.scipy.linalg.solve_triangular(self.scale_tril, flat.T, lower=True).T
        return u.reshape(z.shape)

    def in_units(self, log_density: LogDensity) -> LogDensity:
        """The same density, up to a constant, as a function of u: [D] -> nats."""
        return lambda u: log_density(self.place(u))

    @property
    def log_scale(self) -> Array:
        """½ log|C|, nats."""
        return jnp.sum(jnp.log(jnp.diagonal(self.scale_tril)))


class Coordinates(NamedTuple):
    """z = m + L sinh(w), and log p in w.

    Attributes:
        start: (m, L).
        log_joint: z [D] -> nats.
        steepest: limit of each entry of log p's gradient, nats per unit of w. A draw far astray
            may say anything, and must not drown what the others say.
        level: what is an ordinary value of log_joint, nats: data may make it −10⁴ or 10⁴.
    """

    start: Start
    log_joint: LogDensity
    steepest: float = math.inf
    level: Array | float = 0.0

    @classmethod
    def at(cls, start: Start, log_joint: LogDensity, steepest: float = math.inf) -> "Coordinates":
        """Those whose level is that of the start's mean."""
        value = log_joint(start.mean)
        return cls(start, log_joint, steepest, jnp.where(jnp.isfinite(value), value, 0.0))

    def place(self, w: Array) -> Array:
        """w [..., D] -> z [..., D]."""
        return self.start.place(jnp.sinh(w))

    def locate(self, z: Array) -> Array:
        """z [..., D] -> w [..., D]."""
        return jnp.arcsinh(self.start.locate(z))

    def log_volume(self, w: Array) -> Array:
        """log |∂z/∂w|: w [..., D] -> [...] nats."""
        log_cosh = jnp.logaddexp(w, -w) - math.log(2.0)
        return self.start.log_scale + jnp.sum(log_cosh, axis=-1)

    def log_density(self, w: Array) -> Array:
        """log p of w [D], unnormalised, nats; NOWHERE − |w|² from the level where it is not finite.

        Its gradient is cut off at `steepest`.
        """

        def of_p(w):
            return self.log_joint(self.place(w)) + self.log_volume(w)

        @jax.custom_vjp
        def guarded(w):
            return forwards(w)[0]

        def forwards(w):
            value, slope = jax.value_and_grad(of_p)(w)
            fine = jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))
            value = jnp.where(fine, value, self.level + NOWHERE - jnp.sum(jnp.square(w)))
            slope = jnp.clip(slope, -self.steepest, self.steepest)
            return value, jnp.where(fine, slope, -2.0 * w)

        guarded.defvjp(forwards, lambda slope, bar: (bar * slope,))
        return guarded(w)
