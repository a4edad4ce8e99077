"""The loop: steps, metrics, checkpoints, resume."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import chex
import jax
import numpy as np
from tqdm import tqdm

from avb_jax import data, processes
from avb_jax.checkpoint import Checkpoints
from avb_jax.config import Config
from avb_jax.data import Batches, Dataset
from avb_jax.model import Model, build_model
from avb_jax.optimizers import Optimizers, build_optimizers
from avb_jax.parallel import CompiledStep, compile_step, devices_for
from avb_jax.reporting.metrics import MetricsWriter
from avb_jax.run import Run
from avb_jax.step import TrainState, all_finite, fuse_steps, init_state, make_train_step
from avb_jax.workdir import Preempted, claimed, sigterm_noticed, writing

LOSS_TERMS = ("reconstruction", "kl_estimate", "critic_loss", "elbo_estimate")


OnInterval = Callable[[Run], object]
OnMetrics = Callable[[int, Mapping[str, float]], None]


def train(
    config: Config,
    workdir: str | Path,
    *,
    dataset: Dataset | None = None,
    model: Model | None = None,
    optimizers: Optimizers | None = None,
    resume: bool = True,
    on_interval: OnInterval | None = None,
    on_metrics: OnMetrics | None = None,
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
        on_metrics: called with the steps taken and the metrics that are written then.

    Raises:
        ValueError: for a directory, data set or batch size that does not fit, a directory where
            another process trains, or a disk that is full.
        FloatingPointError: when a loss is NaN or infinite; checkpoints stay as they are.
        Preempted: after SIGTERM, once the state is saved.
    """
    workdir = Path(workdir)
    dataset = dataset or data.load_for(config)
    devices = devices_for(config.batch_size // config.microbatches)
    part, parts = jax.process_index(), jax.process_count()
    batches = Batches(dataset.train.images, config.batch_size, config.seed, part, parts)
    shown = model or build_model(config.evaluated, dataset.event_shape)
    model = model or build_model(config, dataset.event_shape)
    optimizers = optimizers or build_optimizers(config)
    steps = fuse_steps(make_train_step(model, optimizers, config), config.num_steps)
    chex.clear_trace_counter()  # of a run before this one
    step = compile_step(
        chex.assert_max_traces(steps, n=1),
        batch_axis=1,
        devices=devices,
        shard_optimizer=config.optimizer_state == "sharded",
    )
    state = step.place(init_state(model, optimizers, jax.random.key(config.seed)))
    with ExitStack() as held:
        claim = claimed(workdir, config, dataset.event_shape, resume)
        processes.first_does(lambda: held.enter_context(claim))
        hooks = on_interval, on_metrics
        state = _train(config, workdir, shown, step, state, batches, *hooks)
    return Run(config, shown, step.gather(state.evaluation_params), config.num_steps)


def _train(
    config: Config,
    workdir: Path,
    model: Model,
    step: CompiledStep,
    state: TrainState,
    batches: Batches,
    on_interval: OnInterval | None,
    on_metrics: OnMetrics | None,
) -> TrainState:
    """The state after the last step; raises Preempted once it is saved, if SIGTERM comes."""
    start = 0
    with writing(workdir):
        saved = Checkpoints(workdir / "checkpoints", config.keep_checkpoints)
    with saved as checkpoints, processes.all_needed(), ExitStack() as opened:
        sigterm_came = opened.enter_context(sigterm_noticed())
        restored = checkpoints.restore(state)
        if restored is not None:
            start, state = restored
        if processes.is_first():
            with writing(workdir):
                metrics_file = MetricsWriter(workdir / "metrics.jsonl", start)
            writer = opened.enter_context(metrics_file)
        saving, drawing = _Clock(config.checkpoint_interval), _Clock(config.figure_interval)
        for done, latest, metrics in _calls(config, step, state, start, batches):
            last = done == config.num_steps
            if processes.is_first():
                with writing(workdir):
                    writer.write(done, metrics)
                if on_metrics:
                    on_metrics(done, metrics)
            stopping, save, draw = processes.any_says(sigterm_came(), saving.due(), drawing.due())
            if save or last or stopping:
                with writing(workdir):
                    _save(checkpoints, done, latest)
                    if last or stopping:
                        checkpoints.wait()
                saving.restart()
            if stopping:
                raise Preempted(
                    f"stopped by SIGTERM at step {done} of {config.num_steps}, which is saved "
                    f"in {workdir}; the same command goes on from there"
                )
            if draw and on_interval and not last:
                params = step.gather(latest.evaluation_params)
                if processes.is_first():
                    on_interval(Run(config, model, params, done))
                drawing.restart()
            state = latest
    return state


def _calls(config: Config, step, state: TrainState, start: int, batches: Batches) -> Iterator:
    """Yields (steps taken, state, mean metrics) after each device call."""
    size = config.steps_per_call
    progress = tqdm(
        total=config.num_steps,
        initial=start,
        unit="step",
        dynamic_ncols=True,
        disable=not processes.is_first(),
    )
    with progress:
        calls = _batches_of_calls(config, batches, start)
        next_batches = step.put(next(calls))
        for first in range(start, config.num_steps, size):
            count, began = min(size, config.num_steps - first), time.perf_counter()
            state, metrics = step(state, next_batches)
            next_batches = step.put(next(calls))  # while the device works
            metrics = {name: np.asarray(values)[:count] for name, values in metrics.items()}
            _check_finite(metrics, first)
            means = {name: float(values.mean()) for name, values in metrics.items()}
            means["steps_per_second"] = count / (time.perf_counter() - began)
            progress.update(count)
            shown = {
                "ELBO": "elbo_estimate",
                "reconstruction": "reconstruction",
                "KL": "kl_estimate",
            }
            progress.set_postfix({k: f"{means[v]:.2f}" for k, v in shown.items()}, refresh=False)
            yield first + count, state, means


def _batches_of_calls(config: Config, batches: Batches, start: int) -> Iterator[np.ndarray]:
    """[K, B, h, w, c] of each call from step `start` on, without end."""
    size = config.steps_per_call
    if batches.in_memory:
        return (batches.take(first, size) for first in itertools.count(start, size))
    return data.read_ahead(batches, start, size, config.data_workers)


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
    """Tells when so many seconds have passed, to the first process alone: it decides for all."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        self._began = time.monotonic()

    def due(self) -> bool:
        return processes.is_first() and time.monotonic() - self._began >= self._seconds


def _save(checkpoints: Checkpoints, step: int, state: TrainState) -> None:
    if not all_finite(state.params):
        raise FloatingPointError(
            f"step {step}: a parameter was not finite; training stopped and the last good "
            "checkpoint stays"
        )
    checkpoints.save(step, state)
