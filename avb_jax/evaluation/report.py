"""Evaluates a model on a data set: numbers with their kind, standard error and sample sizes."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from avb_jax.evaluation import entries
from avb_jax.evaluation.annealing import DEFAULTS, AISSettings, check_settings
from avb_jax.evaluation.batches import Kept
from avb_jax.evaluation.elbo import Entry, elbo_of_implicit, elbo_of_model
from avb_jax.evaluation.iwae import is_explicit
from avb_jax.evaluation.quadrature import MAX_DIM
from avb_jax.evaluation.weights import check_counts
from avb_jax.types import Key, Tree

METHODS = ("importance", "quadrature", "elbo", "iwae", "ais", "latent")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated, and how much of it.

    Attributes:
        methods: of `METHODS`: log p(x) by `importance` sampling, by `quadrature` (where D <= 2),
            by the `iwae` bound and by `ais`; the `elbo`; and what `latent` diagnostics say.
        num_samples: S of the importance sampling.
        iwae_samples: each K of the IWAE bound.
        ais: how to anneal.
        ais_images: of how many images, the first; 0: all.
        simulated_images: that the model makes, to be annealed in both directions; 0: none.
        fit_steps: at most so many, of the critic that is fitted to the frozen posterior of an
            implicit encoder, 2 or more; 0: none, and the ELBO is the trained critic's own estimate.
        batch_size: B, images at a time.

    Raises:
        ValueError: for a method that does not exist, or a count or `ais` that is not allowed.
    """

    methods: tuple[str, ...] = ("importance", "quadrature", "elbo")
    num_samples: int = 1000
    iwae_samples: tuple[int, ...] = (50,)
    ais: AISSettings = DEFAULTS
    ais_images: int = 0
    simulated_images: int = 100
    fit_steps: int = 3000
    batch_size: int = 100

    def __post_init__(self):
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"methods had {', '.join(unknown)}; allowed are {', '.join(METHODS)}")
        check_counts(num_samples=self.num_samples, batch_size=self.batch_size)
        check_counts(least=0, ais_images=self.ais_images, simulated_images=self.simulated_images)
        for count in self.iwae_samples:
            check_counts(iwae_samples=count)
        if self.fit_steps < 0 or self.fit_steps == 1:
            raise ValueError(f"fit_steps was {self.fit_steps}; allowed is 0, or 2 or more")
        check_settings(self.ais)


def evaluate(
    model: Any,
    params: Tree,
    images: Any,
    *,
    settings: EvaluationSettings = EvaluationSettings(),  # noqa: B008
    labels: np.ndarray | None = None,
    seed: int = 0,
    progress: bool = True,
    folder: Path | None = None,
    about: dict[str, Any] | None = None,
) -> list[Entry]:
    """The entries of `evaluation.json` for one set of images.

    Args:
        model: see `avb_jax.Model`.
        params: its parameters.
        images: [n, ...] as the model sees them: an array, or what has a length and gives those
            of an index array [B], such as `data.Binarized`.
        settings: what is evaluated.
        labels: [n], for the linear probe of `latent`.
        seed: of the evaluation's own draws.
        progress: whether to show bars.
        folder: where an unfinished evaluation keeps what it has, and goes on from; None: nowhere.
        about: what else each entry should say (split, binarisation, ...).

    Returns:
        Entries as `reporting.write_evaluation` takes them, with `method`, and `unit` where that
        is not nats.

    Raises:
        ValueError: if there are no images.
    """
    check_counts(images=len(images))
    tasks = _tasks(model, params, images, labels, settings, jax.random.key(seed), progress)
    identity = _identity(params, len(images), settings, seed, about)
    report = []
    for name, task in tasks.items():
        kept = Kept(folder / f"{name}.npz", identity) if folder else None
        start = time.perf_counter()
        found = task(kept)
        earlier = kept.seconds if kept else 0.0
        seconds = round(earlier + time.perf_counter() - start, 2)
        report += [{**e, **(about or {}), "seed": seed, "seconds": seconds} for e in found]
    return report


def _identity(params: Tree, num_images: int, settings: EvaluationSettings, seed, about) -> str:
    """Of everything that the numbers depend on, but for the images that `about` names."""
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]
    digest = hashlib.sha256(b"".join(leaves)).hexdigest()
    return json.dumps([digest, num_images, dataclasses.asdict(settings), seed, about])


Task = Callable[[Kept | None], list[Entry]]


def _tasks(
    model: Any, params: Tree, images: Any, labels, s: EvaluationSettings, key: Key, progress: bool
) -> dict[str, Task]:
    """What the settings ask for and the model can answer, by name."""
    keys = jax.random.split(key, 8)
    options = {"batch_size": s.batch_size, "progress": progress}
    tasks: dict[str, Task] = {}
    if "importance" in s.methods:
        tasks["importance"] = partial(
            entries.by_importance, model, params, keys[0], images, s.num_samples, options
        )
    if "quadrature" in s.methods and model.latent_dim <= MAX_DIM:
        tasks["quadrature"] = partial(entries.by_quadrature, model, params, images)
    if "iwae" in s.methods:
        by_iwae = partial(entries.by_iwae, model, params, keys[4], images)
        tasks |= {f"iwae-{k}": partial(by_iwae, k, options) for k in s.iwae_samples}
    if "ais" in s.methods:
        some = images[np.arange(min(s.ais_images or len(images), len(images)))]
        tasks["ais"] = partial(entries.by_ais, model, params, keys[5], some, s.ais, options)
        if s.simulated_images and getattr(model, "draw", None):
            tasks["bdmc"] = partial(
                entries.by_bdmc, model, params, keys[6], s.simulated_images, s.ais, options
            )
    if "elbo" in s.methods:
        for number, method in enumerate(_elbos(model, params, keys[1:3], images, s, progress)):
            tasks[f"elbo-{number}"] = _not_kept(method)
    if "latent" in s.methods:
        tasks["latent"] = partial(
            entries.of_latents, model, params, keys[7], images, labels, s.fit_steps, options
        )
    return tasks


def _not_kept(method: Callable[[], list[Entry]]) -> Task:
    return lambda _: method()


def _elbos(model, params, keys, images, s: EvaluationSettings, progress: bool):
    if is_explicit(model):
        return [lambda: elbo_of_model(model, params, keys[0], images, s.batch_size)]
    return elbo_of_implicit(
        model, params, keys, images,
        batch_size=s.batch_size, fit_steps=s.fit_steps, progress=progress,
    )  # fmt: skip
