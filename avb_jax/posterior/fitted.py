"""`Posterior`: what `fit` returns. It draws, and says what it knows of its own density."""

import json
import math
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.critic_fit import CriticFit, fit_critic
from avb_jax.evaluation.bracket import KERNEL_BLOCK, elbo_bracket
from avb_jax.evaluation.importance import importance_log_likelihood
from avb_jax.evaluation.weights import pareto_k
from avb_jax.files import write_atomically
from avb_jax.model import Model
from avb_jax.posterior.coordinates import Coordinates, Start
from avb_jax.posterior.transitions import Transitions, transit
from avb_jax.types import Array, Key, Params

BLOCK = 1024  # draws made at once
POOL = 32_768  # draws that a critic is fitted to, and as many that stop and calibrate it
KERNELS = 16 * KERNEL_BLOCK  # behind the ELBO's lower bound
DRAWS = 2048  # behind the ELBO and k̂
# Of the critic's two pools of draws: the user's keys, key(1) and the like, must make others.
POOL_KEYS = (0x61766201, 0x61766202)
FILE = "posterior.json"


class ELBO(NamedTuple):
    """E_q[log p(z) − log q(z)], nats; log of p's integral is at least that.

    Attributes:
        lower: a lower bound in expectation, by the sampler's kernels before its transitions, which
            only ever raise the ELBO (they leave p as it is, and KL(q‖p) cannot rise). Draws that
            are astray, which transitions do not start from, count in it.
        estimate: by a critic fitted to the draws.
        upper: an upper bound in expectation, by the same critic (`Calibration.kl_lower_bound`).
        stderr: of the estimate, over draws.
    """

    lower: float
    estimate: float
    upper: float
    stderr: float


class Posterior:
    """An implicit posterior q(z) of one density. Made by `fit` and `load`.

    Attributes:
        coordinates: w, in which it was learned.
        model: the engine's model, in w.
        params: its parameters.
        moments: mean and scale of w, in whose units the transitions step.
        transitions: those that end the sampler.
        settings: how it was fitted.
        training_elbo: the trained critic's last estimate, before the transitions; no bound.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        model: Model,
        params: Params,
        moments: Start,
        transitions: Transitions,
        settings: Any,
        training_elbo: float,
    ):
        self.coordinates, self.model, self.params = coordinates, model, params
        self.moments, self.transitions = moments, transitions
        self.settings, self.training_elbo = settings, training_elbo
        self._block = jax.jit(self._draw_block)

    @property
    def dim(self) -> int:
        """D."""
        return self.model.latent_dim

    def sample(self, key: Key, num_samples: int) -> Array:
        """Draws of q: [n, D].

        Raises:
            ValueError: for a number below 1.
        """
        return self.coordinates.place(self._draw(key, num_samples))

    def with_transitions(self, count: int) -> "Posterior":
        """The same sampler, ended by so many transitions; none leave q as the critic knew it.

        Raises:
            ValueError: for a count below 0.
        """
        if count < 0:
            raise ValueError(f"count was {count}; allowed is 0 or more")
        transitions = self.transitions._replace(number=count)
        of_sampler = (self.coordinates, self.model, self.params, self.moments)
        return Posterior(*of_sampler, transitions, self.settings, self.training_elbo)

    def log_density_estimate(self, z: Array) -> Array:
        """log q̂(z), nats: z [n, D] -> [n]. By a critic fitted to the draws, once; no bound."""
        w = self.coordinates.locate(jnp.asarray(z))
        return self.critic.log_density(w) - self.coordinates.log_volume(w)

    @cached_property
    def critic(self) -> CriticFit:
        """Of w: fitted when it is first asked for, which takes a minute or so."""
        key = jax.random.key(0)
        pools = [self._draw(jax.random.fold_in(key, of_pool), POOL) for of_pool in POOL_KEYS]

        def draw(pool, key, count):
            return pool[jax.random.randint(key, (count,), 0, len(pool))]

        return fit_critic(
            key, partial(draw, pools[0]), self.dim,
            held_out=partial(draw, pools[1]), max_steps=4000,
        )  # fmt: skip

    def elbo(self, key: Key) -> ELBO:
        """The ELBO between its bounds, nats: see `ELBO`."""
        keys = jax.random.split(key)
        terms = np.asarray(self._log_weights(keys[0]), np.float64)
        estimate, excess = terms.mean(), self.critic.calibration.reference_mean_ratio - 1.0
        bracket = elbo_bracket(
            self.model, self.params, keys[1], jnp.ones((1, 1)),
            num_samples=DRAWS, num_kernels=KERNELS,
        )  # fmt: skip
        lower = float(bracket.elbo_lower[0])
        return ELBO(lower, estimate, estimate + excess, terms.std() / math.sqrt(len(terms)))

    def log_evidence(self, key: Key, num_samples: int = 4000) -> float:
        """A lower bound, in expectation, of log ∫ exp(log_joint), nats.

        By importance sampling from a Student t fitted to draws of q (`importance_log_likelihood`),
        so that no estimate of log q enters.
        """
        found = importance_log_likelihood(
            self.model, self.params, key, jnp.ones((1, 1)),
            num_samples=num_samples, num_fit=DRAWS, block_size=min(num_samples, BLOCK),
        )  # fmt: skip
        return float(found.log_likelihood[0])

    def pareto_k(self, key: Key) -> float:
        """k̂ of p/q̂ at draws of q, an estimate, for log q̂ is: above 0.7, do not trust q's tails."""
        return float(pareto_k(self._log_weights(key)[None])[0])

    def save(self, directory: str | Path) -> None:
        """Writes all but the density itself into a directory: see `load`.

        It takes the place of a posterior that was saved there before.
        """
        from avb_jax.checkpoint import Checkpoints

        directory = Path(directory)
        with Checkpoints(directory, keep=1) as checkpoints:
            checkpoints.save(max(checkpoints.steps(), default=-1) + 1, self._arrays())
        about = {
            "dim": self.dim, "settings": self.settings._asdict(),
            "transitions": self.transitions.number, "elbo": float(self.training_elbo),
        }  # fmt: skip
        write_atomically(directory / FILE, json.dumps(about, indent=2).encode())

    def _log_weights(self, key: Key) -> Array:
        """log p/q̂ at draws of q, [DRAWS] nats."""
        w = self._draw(key, DRAWS)
        log_p = jax.jit(jax.vmap(self.coordinates.log_density))(w)
        return log_p - self.critic.log_density(w)

    def _arrays(self) -> tuple:
        return self.params, self.moments, self.coordinates.start, self.transitions.step_size

    def _draw(self, key: Key, num_samples: int) -> Array:
        """Draws of w, [n, D], a block at a time."""
        if num_samples < 1:
            raise ValueError(f"num_samples was {num_samples}; allowed is 1 or more")
        keys = jax.random.split(key, -(-num_samples // BLOCK))
        return jnp.concatenate([self._block(key) for key in keys])[:num_samples]

    def _draw_block(self, key: Key) -> Array:
        keys = jax.random.split(key)
        w = self.model.encode(self.params, keys[0], jnp.ones((1, 1)), BLOCK).z[:, 0]
        log_density = self.moments.in_units(self.coordinates.log_density)
        v, _ = transit(log_density, self.moments.locate(w), keys[1], self.transitions)
        return self.moments.place(v)
