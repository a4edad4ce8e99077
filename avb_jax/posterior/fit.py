"""`fit`: a sampler of an unnormalised density, by adversarial variational Bayes; and `load`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from avb_jax.config import Config
from avb_jax.model import Model
from avb_jax.optimizers import build_optimizers
from avb_jax.posterior.coordinates import Coordinates, Start
from avb_jax.posterior.engine import EXTRA_NOISE, build_model
from avb_jax.posterior.fitted import FILE, Posterior
from avb_jax.posterior.start import check_shape, check_start, find_start, moments_of
from avb_jax.posterior.transitions import Transitions, number_needed, settle, tune
from avb_jax.step import all_finite, fuse_steps, init_state, make_train_step
from avb_jax.types import Array, Key, Params

STEPS_PER_CALL = 100
COLDEST = 0.02  # first inverse temperature
CLIP_NORM = 5.0  # of each gradient
PILOTS, ADAPTATIONS = 512, 3  # draws that transitions are adapted to, in so many rounds
ASTRAY = 8.0  # standard deviation of w = arcsinh of a coordinate, above which q has run away


class Settings(NamedTuple):
    """How to fit; the defaults are one set for all densities.

    Attributes:
        num_steps: optimiser steps, of sampler and critic at once.
        num_samples: S, draws of q a step.
        width: units of each layer, of both networks.
        depth: residual layers of both.
        learning_rate: of the sampler; both fall by a cosine.
        critic_learning_rate: of the critic.
        warm_share: of the steps, how many lead from the start's Gaussian to p.
        transitions: Hamiltonian ones that end the sampler, at most: as many as let draws forget
            where they were; 0: none.
        leapfrog: steps of each.
    """

    num_steps: int = 2000
    num_samples: int = 256
    width: int = 64
    depth: int = 2
    learning_rate: float = 2e-3
    critic_learning_rate: float = 2e-3
    warm_share: float = 0.3
    transitions: int = 200
    leapfrog: int = 16


DEFAULTS = Settings()


def check_settings(settings: Settings) -> None:
    """Raises ValueError, in a sentence, for settings that are not allowed."""
    for name, value in settings._asdict().items():
        least = int(name != "transitions")
        if isinstance(getattr(DEFAULTS, name), float):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} was {value}; allowed is between 0 and 1")
        elif value != int(value) or value < least:
            raise ValueError(f"{name} was {value}; allowed is a whole number of {least} or more")


def step_config(dim: int, noise_dim: int, settings: Settings, **changes) -> Config:
    """What the fused step is told; raises ValueError as `Config` does."""
    given = {
        "encoder": "noise-mlp", "latent_dim": dim, "noise_dim": noise_dim, "batch_size": 1,
        "num_samples": settings.num_samples, "decoder_samples": settings.num_samples,
        "learning_rate": settings.learning_rate, "num_steps": settings.num_steps,
        "critic_learning_rate": settings.critic_learning_rate, "clip_norm": CLIP_NORM,
    }  # fmt: skip
    return Config(**{**given, **changes})


def fit(
    log_joint: Callable[[Array], Array],
    dim: int,
    key: Key,
    *,
    settings: Settings = DEFAULTS,
    start: Start | None = None,
    progress: bool = False,
) -> Posterior:
    """Learns an implicit posterior q(z) for p(z) ∝ exp(log_joint(z)) by the fused step.

    The sampler starts as a Gaussian found by quasi-Newton paths, is led to p by tempering, and ends
    in Hamiltonian transitions; the critic is told log p(z) and learns what is left of log q.

    Args:
        log_joint: z [D] -> log of the unnormalised density, nats: a scalar of JAX operations,
            differentiable, on unconstrained z.
        dim: D.
        key: the same key gives the same posterior.
        settings: see `Settings`.
        start: a Gaussian (m, L) to start from; that of `find_start` where unset.
        progress: whether to show a bar with the ELBO's estimate.

    Returns:
        A `Posterior`.

    Raises:
        ValueError: for a log_joint of another shape, one that is not finite, not differentiable or
            improper, or settings that are not allowed.
        FloatingPointError: if training diverges.
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise ValueError(f"dim was {dim!r}; allowed is a whole number of 1 or more")
    check_settings(settings)
    keys = jax.random.split(key, 4)
    if start is None:
        start = find_start(log_joint, dim, keys[0])
    else:
        check_start(log_joint, dim, start, keys[0])
    coordinates = Coordinates.at(start, log_joint)
    model = build_model(coordinates, dim, settings.width, settings.depth)
    config = step_config(dim, dim + EXTRA_NOISE, settings)
    warm = max(1.0, settings.warm_share * settings.num_steps)
    betas = np.clip(np.arange(1, settings.num_steps + 1) / warm, COLDEST, 1.0)
    x = np.asarray(betas, np.float32).reshape(-1, 1, 1)
    params, elbo = train_on(model, config, keys[1], lambda at: x[at], progress)
    return finish(coordinates, model, params, settings, keys[2], elbo)


def train_on(
    model: Model, config: Config, key: Key, batches: Callable, progress: bool
) -> tuple[Params, float]:
    """The parameters after `num_steps` fused steps, and the last ELBO estimates' mean.

    Args:
        batches: numbers of steps [K] -> their batches [K, B, ...].

    Raises:
        FloatingPointError: for a loss, or a parameter, that is not finite.
    """
    optimizers = build_optimizers(config)
    fused = fuse_steps(make_train_step(model, optimizers, config), config.num_steps)
    steps = jax.jit(fused, donate_argnums=0)
    state = init_state(model, optimizers, key)
    with tqdm(total=config.num_steps, unit="step", disable=not progress) as bar:
        for first in range(0, config.num_steps, STEPS_PER_CALL):
            numbers = np.arange(first, first + STEPS_PER_CALL)
            given = jnp.asarray(batches(np.minimum(numbers, config.num_steps - 1)))
            state, metrics = steps(state, given)
            taken = min(STEPS_PER_CALL, config.num_steps - first)
            means = {name: float(jnp.mean(value[:taken])) for name, value in metrics.items()}
            elbo, loss = means["elbo_estimate"], means["critic_loss"]
            # A step's metrics are of what it starts from: those of the last say nothing of its end.
            if not np.isfinite(elbo + loss) or not all_finite(state.params):
                raise FloatingPointError(
                    f"parameters or losses were not finite before step {first + taken}, with an "
                    f"ELBO's estimate of {elbo} and a critic's loss of {loss}; try a smaller "
                    "learning_rate"
                )
            bar.update(taken)
            bar.set_postfix(elbo_estimate=f"{elbo:.3f}", log_ratio=f"{means['log_ratio']:.3f}")
    return state.params, elbo


def finish(
    coordinates: Coordinates, model: Model, params: Params, settings: Settings, key: Key, elbo
) -> Posterior:
    """The posterior of a trained sampler: its moments, and transitions tuned to it."""
    keys = jax.random.split(key, 3)

    @jax.jit
    def pilots(params):
        w = model.encode(params, keys[0], jnp.ones((1, 1)), PILOTS).z[:, 0]
        return settle(coordinates.log_density, w, keys[1])

    w = pilots(params)
    spread = float(jnp.max(jnp.std(w, axis=0)))
    if not spread < ASTRAY:
        raise ValueError(
            f"q ran away to {spread:.1f} e-folds of its start's width: log_joint is improper, or "
            "nearly so; allowed is a density that can be normalised"
        )
    adapted = _adapt(coordinates, w, keys[2], settings)
    return Posterior(coordinates, model, params, *adapted, settings, elbo)


def _adapt(
    coordinates: Coordinates, w: Array, key: Key, settings: Settings
) -> tuple[Start, Transitions]:
    """The transitions' coordinates, step size and number, by what pilot draws [n, D] of w do."""
    keys, leapfrog = jax.random.split(key, ADAPTATIONS + 1), settings.leapfrog

    @jax.jit
    def tuned(moments, w, key):
        log_density = moments.in_units(coordinates.log_density)
        v, step_size = tune(log_density, moments.locate(w), key, leapfrog)
        return moments.place(v), step_size

    @jax.jit
    def needed(moments, w, step_size, key):
        log_density, v = moments.in_units(coordinates.log_density), moments.locate(w)
        return number_needed(log_density, v, step_size, key, leapfrog, settings.transitions)

    if not settings.transitions:
        return moments_of(w), Transitions(jnp.ones([]), 0, leapfrog)
    for round_key in keys[1:]:
        moments = moments_of(w)
        w, step_size = tuned(moments, w, round_key)
    number = int(needed(moments, w, step_size, keys[0]))
    return moments, Transitions(step_size, number, leapfrog)


def load(directory: str | Path, log_joint: Callable[[Array], Array]) -> Posterior:
    """A posterior that `Posterior.save` wrote, of the same log_joint.

    Raises:
        ValueError: if the directory holds none, is damaged, or holds one of another dimension.
    """
    from avb_jax.checkpoint import Checkpoints

    directory = Path(directory)
    try:
        about = json.loads((directory / FILE).read_text())
        dim, settings = about["dim"], Settings(**about["settings"])
        number, elbo = int(about["transitions"]), float(about["elbo"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory} holds no posterior that was saved: {error}") from None
    check_shape(log_joint, dim)
    none = Start(jnp.zeros(dim), jnp.eye(dim))
    model = build_model(Coordinates(none, log_joint), dim, settings.width, settings.depth)
    like = (model.init(jax.random.key(0)), none, none, jnp.ones([]))
    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(like)
    if restored is None:
        raise ValueError(f"{directory} holds no posterior that was saved: its arrays are missing")
    params, moments, start, step_size = restored[1]
    coordinates = Coordinates.at(start, log_joint)
    model = build_model(coordinates, dim, settings.width, settings.depth)
    transitions = Transitions(step_size, number, settings.leapfrog)
    return Posterior(coordinates, model, params, moments, transitions, settings, elbo)
