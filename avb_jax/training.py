"""The loop: steps, metrics, checkpoints, resume; and `load`, which gives a run back."""

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
from avb_jax.optimizers import build_optimizers
from avb_jax.parallel import compile_step
from avb_jax.reporting.files import write_atomically
from avb_jax.reporting.metrics import MetricsWriter
from avb_jax.step import TrainState, fuse_steps, init_state, make_train_step
from avb_jax.types import Params

KEEP_CHECKPOINTS = 3


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


def event_shape_path(workdir: Path) -> Path:
    """Where a run notes the shape of its images, so that `load` needs no data."""
    return workdir / "event_shape.txt"


def fresh_state(config: Config, model: Model) -> TrainState:
    """The state that a run of this config starts from."""
    return init_state(model, build_optimizers(config), jax.random.key(config.seed))


def load(workdir: str | Path) -> Run:
    """A run from its directory: config, model and the newest good checkpoint's parameters.

    Raises:
        ValueError: if the directory holds no run, or no checkpoint that is whole.
    """
    workdir = Path(workdir)
    config = load_config(workdir / "config.json")
    if not event_shape_path(workdir).exists():
        raise ValueError(f"workdir was {workdir}, which holds no checkpoint yet; train first")
    shape = tuple(int(side) for side in event_shape_path(workdir).read_text().split())
    model = build_model(config, shape)
    with closing(Checkpoints(workdir / "checkpoints", KEEP_CHECKPOINTS)) as checkpoints:
        restored = checkpoints.restore(fresh_state(config, model))
    if restored is None:
        raise ValueError(f"workdir was {workdir}, which holds no checkpoint yet; train first")
    step, state = restored
    return Run(config, model, state.evaluation_params, step)


def open_workdir(workdir: Path, config: Config, resume: bool) -> None:
    """Makes the directory ready for a run of `config`.

    Raises:
        ValueError: if it holds another run, something that is no run, or, without
            `resume`, checkpoints of this one.
    """
    path = workdir / "config.json"
    if path.exists():
        differing = load_config(path).same_run_as(config)
        if differing:
            raise ValueError(
                f"workdir was {workdir}, which holds a run with another "
                f"{', '.join(differing)}; choose another --workdir"
            )
        if not resume and any((workdir / "checkpoints").glob("[0-9]*")):
            raise ValueError(
                f"workdir was {workdir}, which holds checkpoints, with resume off; choose "
                "another --workdir, or resume"
            )
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise ValueError(
            f"workdir was {workdir}, which is not empty and holds no run; choose another --workdir"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(path, config.to_json().encode())


def train(
    config: Config,
    workdir: str | Path,
    *,
    dataset: Dataset | None = None,
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
        resume: whether to go on from a checkpoint that is there.
        on_interval: called with the run so far every `config.figure_interval` seconds.

    Raises:
        ValueError: for a directory, data set or batch size that does not fit.
        FloatingPointError: when a loss is NaN or infinite; checkpoints stay as they are.
    """
    workdir = Path(workdir)
    dataset = dataset or data.load(
        config.dataset, data_dir=config.data_dir, binarization=config.binarization
    )
    batches = Batches(dataset.train.images, config.batch_size, config.seed)
    model, optimizers = build_model(config, dataset.event_shape), build_optimizers(config)
    steps = fuse_steps(make_train_step(model, optimizers, config), config.num_steps)
    chex.clear_trace_counter()  # of a run before this one
    step = compile_step(chex.assert_max_traces(steps, n=1), batch_axis=1)
    open_workdir(workdir, config, resume)
    write_atomically(event_shape_path(workdir), " ".join(map(str, dataset.event_shape)).encode())

    state, start = fresh_state(config, model), 0
    with closing(Checkpoints(workdir / "checkpoints", KEEP_CHECKPOINTS)) as checkpoints:
        restored = checkpoints.restore(state)
        if restored is not None:
            start, state = restored
        clock = _Clock(config, checkpoints, on_interval, model)
        with MetricsWriter(workdir / "metrics.jsonl", start) as writer:
            for done, latest, metrics in _calls(config, step, state, start, batches):
                writer.write(done, metrics)
                clock.tick(latest, done, last=done == config.num_steps)
                state = latest
    return Run(config, model, state.evaluation_params, config.num_steps)


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
    for name, values in metrics.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise FloatingPointError(
                f"step {first + bad[0] + 1}: {name} was {values[bad[0]]}; training stopped and "
                "the last good checkpoint stays; allowed is a finite loss: try a smaller "
                "learning rate or --clip_norm"
            )


class _Clock:
    """Saves checkpoints and draws figures when their intervals have passed."""

    def __init__(self, config, checkpoints, on_interval, model):
        self.config, self.model = config, model
        self.checkpoints, self.on_interval = checkpoints, on_interval
        self.saved = self.drawn = time.monotonic()

    def tick(self, state: TrainState, step: int, last: bool) -> None:
        now = time.monotonic()
        if last or now - self.saved >= self.config.checkpoint_interval:
            if not _all_finite(state.params):
                raise FloatingPointError(
                    f"step {step}: a parameter was not finite; training stopped and the last "
                    "good checkpoint stays"
                )
            self.checkpoints.save(step, state)
            self.saved = time.monotonic()
        if self.on_interval and (last or now - self.drawn >= self.config.figure_interval):
            self.on_interval(Run(self.config, self.model, state.evaluation_params, step))
            self.drawn = time.monotonic()


@jax.jit
def _all_finite(tree) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
