"""What the command lines share: flags, errors and exit status, evaluation, figures."""

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
from absl import flags, logging

from avb_jax import evaluation, processes, reporting
from avb_jax.config import Config
from avb_jax.data import Binarized, Dataset, Split, cache_directory
from avb_jax.evaluation import EvaluationSettings
from avb_jax.options import define_flags
from avb_jax.reporting.tensorboard import TensorBoardWriter
from avb_jax.run import Run
from avb_jax.training import train
from avb_jax.workdir import Preempted, locked, writing

EVALUATION_SEED = 1701_04722  # every run is evaluated on the same binarised images
FIGURE_IMAGES = 2000


def run_command(main: Callable[..., None], arguments: bool = False) -> None:
    """Parses the flags and runs `main`; a wrong input is one sentence and exit status 2.

    With `arguments`, main is given what is no flag.
    Turns on JAX's persistent compilation cache, in the user's cache directory.
    """
    # SciPy's BLAS, by which XLA factorises on CPUs, has threads that get in the way of XLA's own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    flags.DEFINE_bool("help", False, "print this, and do nothing")
    if {"--help", "-help", "-h"} & set(sys.argv[1:]):
        print(f"{sys.modules['__main__'].__doc__}\nFlags:{flags.FLAGS.main_module_help()}")
        return
    try:
        rest = flags.FLAGS(sys.argv)
    except flags.Error as error:
        _fail(error)
    if len(rest) > 1 and not arguments:
        _fail(f"arguments were {' '.join(rest[1:])}; allowed are --flags alone")
    logging.use_absl_handler()
    jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        if "distributed" in flags.FLAGS and flags.FLAGS.distributed:
            names = ("coordinator_address", "num_processes", "process_id")
            processes.join(*(getattr(flags.FLAGS, name) for name in names))
        main(*rest[1:])
    except Preempted as stopped:
        print(stopped)
    except processes.PeerLost as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # the usual way out waits for the process that is gone
    except (ValueError, FloatingPointError) as error:
        if not _is_ours(error):
            raise
        _fail(error)
    except OSError as error:  # a full disk, a directory that is a file
        _fail(error)


def _fail(error: Exception | str) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised it, as a sentence to the user."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith(("avb_jax", "__main__", "posteriors"))


def define_training_flags(**defaults) -> None:
    """Flags of a training command: those of `Config`, and where and how to run it."""
    flags.disclaim_key_flags()  # they are the command's own, in its help
    define_flags(Config, flags.FLAGS, **defaults)
    flags.DEFINE_string("workdir", None, "directory of the run (unset: runs/DATASET)")
    flags.DEFINE_bool("resume", True, "go on from the checkpoint in the workdir, if there is one")
    flags.DEFINE_bool("tensorboard", False, "also write WORKDIR/tensorboard, for TensorBoard")
    flags.DEFINE_bool("distributed", False, "this is one of several processes, on any hosts")
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0 (unset: detected)")
    flags.DEFINE_integer("num_processes", None, "how many processes (unset: detected)")
    flags.DEFINE_integer("process_id", None, "which of them this is, from 0 (unset: detected)")
    define_evaluation_flags()


def workdir_of_flags(config: Config) -> Path:
    """`--workdir`, or runs/DATASET."""
    return Path(flags.FLAGS.workdir or Path("runs") / Path(config.dataset).stem)


def define_evaluation_flags() -> None:
    """Flags of an evaluation."""
    flags.disclaim_key_flags()
    flags.DEFINE_integer("evaluation_images", 0, "test images to evaluate; 0: all", lower_bound=0)
    flags.DEFINE_integer(
        "evaluation_samples", 1000, "importance samples per image", lower_bound=1, upper_bound=10000
    )
    flags.DEFINE_integer(
        "critic_fit_steps",
        3000,
        "at most so many of the critic that evaluation fits to an implicit posterior; 0: none",
        lower_bound=0,
    )


def preprocess(split: Split, config: Config, limit: int = 0) -> Binarized:
    """The first `limit` images (0: all) as the model sees them, binarised by one fixed key."""
    images = split.images[:limit] if limit else split.images
    return Binarized(jax.random.key(EVALUATION_SEED), images, config.binarization)


def draw(run: Run, dataset: Dataset, workdir: Path) -> list[Path]:
    """Draws every figure of a run into `workdir/figures`."""
    split = dataset.test
    repeats = max(1, FIGURE_IMAGES // len(split.images)) if len(split.images) < 10 else 1
    x = np.tile(preprocess(split, run.config, FIGURE_IMAGES)[:], (repeats, 1, 1, 1))
    labels = None if split.labels is None else np.tile(split.labels[:FIGURE_IMAGES], repeats)
    path = workdir / "figures" / "snapshot.npz"
    key = jax.random.key(run.config.seed)
    reporting.take_snapshot(run.model, run.params, key, x, labels, path)
    return reporting.draw_figures(workdir)


def evaluation_settings(**changes) -> EvaluationSettings:
    """By the flags of `define_evaluation_flags`, with these changes."""
    of_flags = {
        "num_samples": flags.FLAGS.evaluation_samples,
        "fit_steps": flags.FLAGS.critic_fit_steps,
    }
    return EvaluationSettings(**{**of_flags, **changes})


def evaluate(
    run: Run, dataset: Dataset, workdir: Path, settings: EvaluationSettings, split: str = "test"
) -> list[dict]:
    """Evaluates a run; `evaluation.json` keeps what it says of other splits and other methods.

    Killed in the middle, and run again with the same flags, it goes on. What was said of the run
    when it had taken fewer steps is dropped.

    Raises:
        ValueError: if another process evaluates the run.
    """
    with locked(workdir, "evaluating"):
        return _evaluate(run, dataset, workdir, settings, split)


def _evaluate(
    run: Run, dataset: Dataset, workdir: Path, settings: EvaluationSettings, split: str
) -> list[dict]:
    of_split = getattr(dataset, split)
    folder = workdir / f"evaluation-{split}"
    entries = evaluation.evaluate(
        run.model,
        run.params,
        preprocess(of_split, run.config, flags.FLAGS.evaluation_images),
        settings=settings,
        labels=of_split.labels,
        seed=run.config.seed,
        folder=folder,
        about={"split": split, "binarization": run.config.binarization, "step": run.step},
    )
    if run.config.likelihood == "bernoulli" and run.config.binarization == "none":
        entries = [_of_grey_pixels(entry) for entry in entries]
    path = workdir / "evaluation.json"
    kept = reporting.read_evaluation(path) if path.exists() else []
    known = {_measured(entry) for entry in entries}
    kept = [e for e in kept if e.get("step") == run.step and _measured(e) not in known]
    reporting.write_evaluation(path, kept + entries)
    shutil.rmtree(folder, ignore_errors=True)
    return entries


def _of_grey_pixels(entry: dict) -> dict:
    """Bernoulli's p(x|z) is not normalised over grey pixels: what it says bounds no log p(x)."""
    if entry["name"] not in ("log_likelihood", "elbo") or entry["kind"] == "estimate":
        return entry
    of_elbo = entry["name"] == "elbo"  # which may be bounded from both sides, told apart by method
    method = f"{entry['method']}, {entry['kind']}" if of_elbo else entry["method"]
    return {**entry, "kind": "estimate", "method": method}


def _measured(entry: dict) -> tuple:
    """What an entry says something of, and how: a newer one takes the place of an older."""
    return tuple(entry.get(key) for key in ("split", "name", "kind", "method"))


def train_and_evaluate(
    config: Config, workdir: Path, dataset: Dataset, settings: EvaluationSettings | None = None
) -> list[dict]:
    """Trains, with figures on the way, then evaluates, in the first process alone.

    By the flags of `define_evaluation_flags`, where no settings are given.
    """
    board = TensorBoardWriter(workdir / "tensorboard") if flags.FLAGS.tensorboard else None

    def show(run: Run) -> None:
        with writing(workdir):
            figures = draw(run, dataset, workdir)
            if board:
                board.write_figures(run.step, figures)

    with board or nullcontext():
        run = train(
            config,
            workdir,
            dataset=dataset,
            resume=flags.FLAGS.resume,
            on_interval=show,
            on_metrics=board.write if board else None,
        )
        if not processes.is_first():
            return []
        show(run)
    return evaluate(run, dataset, workdir, settings or evaluation_settings())
