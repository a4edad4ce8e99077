"""The loop: steps, metrics, checkpoints, resume; and `load`, which gives a run back."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from avb_jax import data
from avb_jax.checkpoint import Checkpoints
from avb_jax.config import Config, load_config
from avb_jax.data import Batches, Dataset
from avb_jax.model import Model, build_model
from avb_jax.optimizers import Optimizers, build_optimizers
from avb_jax.parallel import compile_step
from avb_jax.reporting.metrics import MetricsWriter
from avb_jax.step import TrainState, fuse_steps, init_state, make_train_step
from avb_jax.types import Params
from avb_jax.workdir import Preempted, event_shape_path, locked, open_workdir, sigterm_noticed

LOSS_TERMS = ("reconstruction", "kl_estimate", "critic_loss", "elbo_estimate")


class Run(NamedTuple):
    """A run, ready to use.

    Attributes:
        config: every choice of it.
        model: pure functions.
        params: averaged where the config says so.
        step: steps taken.
    """

    config: Config
    model: Model
    params: Params
    step: int


OnInterval = Callable[[Run], None]


def load(
    workdir: str | Path, *, model: Model | None = None, optimizers: Optimizers | None = None
) -> Run:
    """A run from its directory: config, model and the newest good checkpoint's parameters.

    `model` and `optimizers` are those it was trained with, where not the config's.

    Raises:
        ValueError: if the directory holds no run, or no checkpoint that is whole.
    """
    workdir = Path(workdir)
    config = load_config(workdir / "config.json")
    if not event_shape_path(workdir).exists():
        raise ValueError(f"workdir was {workdir}, which holds no checkpoint yet; train first")
    shape = tuple(int(side) for side in event_shape_path(workdir).read_text().split())
    model = model or build_model(config, shape)
    state = init_state(model, optimizers or build_optimizers(config), jax.random.key(config.seed))
    with closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        restored = checkpoints.restore(state)
    if restored is None:
        raise ValueError(f"workdir was {workdir}, which holds no checkpoint yet; train first")
    step, state = restored
    return Run(config, model, state.evaluation_params, step)


def train(
    config: Config,
    workdir: str | Path,
    *,
    dataset: Dataset | None = None,
    model: Model | None = None,
    optimizers: Optimizers | None = None,
    resume: bool = True,
    on_interval: OnInterval | None = None,
) -> Run:
    """Trains, or goes on with, the run in `workdir`, with a progress bar.

    Leaves `config.json`, `metrics.jsonl` and `checkpoints/` there. A resumed run is bit for
    bit the run that was never stopped: batches and noise are functions of the seed and the
    step alone.

    Args:
        config: every choice of the run.
        workdir: its directory.
        dataset: `config.dataset`, where it is loaded already.
        model: networks of your own; those of the config where unset.
        optimizers: any two optax transformations; those of the config where unset.
        resume: whether to go on from a checkpoint that is there.
        on_interval: called with the run so far every `config.figure_interval` seconds; its
            arrays are used up by the next step.

    Raises:
        ValueError: for a directory, data set or batch size that does not fit, a directory where
            another process trains, or a disk that is full.
        FloatingPointError: when a loss is NaN or infinite; checkpoints stay as they are.
        Preempted: after SIGTERM, once the state is saved.
    """
    workdir = Path(workdir)
    dataset = dataset or data.load(
        config.dataset, data_dir=config.data_dir, binarization=config.binarization
    )
    batches = Batches(dataset.train.images, config.batch_size, config.seed)
    model = model or build_model(config, dataset.event_shape)
    optimizers = optimizers or build_optimizers(config)
    devices = jax.local_devices()[: math.gcd(config.batch_size, jax.local_device_count())]
    steps = fuse_steps(make_train_step(model, optimizers, config), config.num_steps)
    chex.clear_trace_counter()  # of a run before this one
    step = compile_step(chex.assert_max_traces(steps, n=1), batch_axis=1, devices=devices)
    open_workdir(workdir, config, dataset.event_shape, resume)

    state = init_state(model, optimizers, jax.random.key(config.seed))
    with locked(workdir):
        try:
            state = _train(config, workdir, model, step, state, batches, on_interval)
        except OSError as error:
            raise ValueError(
                f"workdir was {workdir}, which cannot be written: {error}; what was saved before "
                "stays, and the same command goes on from there"
            ) from None
    return Run(config, model, state.evaluation_params, config.num_steps)


def _train(
    config: Config, workdir: Path, model: Model, step, state: TrainState, batches, on_interval
) -> TrainState:
    """The state after the last step; raises Preempted once it is saved, if SIGTERM comes."""
    start, saved = 0, Checkpoints(workdir / "checkpoints", config.keep_checkpoints)
    with closing(saved) as checkpoints, sigterm_noticed() as sigterm_came:
        restored = checkpoints.restore(state)
        if restored is not None:
            start, state = restored
        clock = _Clock(config, checkpoints, on_interval, model)
        with MetricsWriter(workdir / "metrics.jsonl", start) as writer:
            for done, latest, metrics in _calls(config, step, state, start, batches):
                last, stopping = done == config.num_steps, sigterm_came()
                writer.write(done, metrics)
                clock.tick(latest, done, last=last, save=last or stopping)
                if stopping and not last:
                    checkpoints.wait()
                    raise Preempted(
                        f"stopped by SIGTERM at step {done} of {config.num_steps}, which is saved "
                        f"in {workdir}; the same command goes on from there"
                    )
                state = latest
        checkpoints.wait()
    return state


def _calls(config: Config, step, state: TrainState, start: int, batches: Batches) -> Iterator:
    """Yields (steps taken, state, mean metrics) after each device call."""
    size = config.steps_per_call
    progress = tqdm(total=config.num_steps, initial=start, unit="step", dynamic_ncols=True)
    with progress:
        next_batches = batches.take(start, size)
        for first in range(start, config.num_steps, size):
            count = min(size, config.num_steps - first)
            state, metrics = step(state, next_batches)
            next_batches = batches.take(first + size, size)  # while the device works
            metrics = {name: np.asarray(values)[:count] for name, values in metrics.items()}
            _check_finite(metrics, first)
            means = {name: float(values.mean()) for name, values in metrics.items()}
            progress.update(count)
            shown = {
                "ELBO": "elbo_estimate",
                "reconstruction": "reconstruction",
                "KL": "kl_estimate",
            }
            progress.set_postfix({k: f"{means[v]:.2f}" for k, v in shown.items()}, refresh=False)
            yield first + count, state, means


def _check_finite(metrics: dict[str, np.ndarray], first: int) -> None:
    """Raises for the earliest term of a loss that is not finite."""
    bad = [
        (int(np.flatnonzero(~np.isfinite(metrics[name]))[0]), order, name)
        for order, name in enumerate(LOSS_TERMS)
        if name in metrics and not np.isfinite(metrics[name]).all()
    ]
    if bad:
        index, _, name = min(bad)
        raise FloatingPointError(
            f"step {first + index + 1}: {name} was {metrics[name][index]}; training stopped and "
            "the last good checkpoint stays; allowed is a finite loss: in another --workdir, try a "
            "smaller learning rate or --clip_norm"
        )


class _Clock:
    """Saves checkpoints and draws figures when their intervals have passed."""

    def __init__(self, config, checkpoints, on_interval, model):
        self.config, self.model = config, model
        self.checkpoints, self.on_interval = checkpoints, on_interval
        self.saved = self.drawn = time.monotonic()

    def tick(self, state: TrainState, step: int, *, last: bool, save: bool) -> None:
        now = time.monotonic()
        if save or now - self.saved >= self.config.checkpoint_interval:
            if not _all_finite(state.params):
                raise FloatingPointError(
                    f"step {step}: a parameter was not finite; training stopped and the last "
                    "good checkpoint stays"
                )
            self.checkpoints.save(step, state)
            self.saved = time.monotonic()
        if self.on_interval and not last and now - self.drawn >= self.config.figure_interval:
            self.on_interval(Run(self.config, self.model, state.evaluation_params, step))
            self.drawn = time.monotonic()


@jax.jit
def _all_finite(tree) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
