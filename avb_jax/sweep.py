"""Sweeps: a command's runs over posteriors, seeds and settings, gathered in one file."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from avb_jax import data, experiment, reporting
from avb_jax.cases import measure_cases
from avb_jax.choices import EXPLICIT_ENCODERS
from avb_jax.config import Config
from avb_jax.evaluation import EvaluationSettings
from avb_jax.files import write_atomically
from avb_jax.options import check_choices

Changes = Mapping[str, Any]  # of a config, field by field

# An explicit encoder has no critic, and asks the decoder for nothing unless told to.
EXPLICIT: Changes = {
    "refinements": None, "contrast": None, "num_samples": None, "critic_samples": None
}  # fmt: skip
TOLD = ("refinements", "survey")  # where given, the command line's and not the posterior's own
VAES = {name: {"encoder": name, **EXPLICIT} for name in EXPLICIT_ENCODERS}


def define_sweep_flags(posteriors: Mapping[str, Changes] | None = None, default: str = "") -> None:
    """`--sweep`, and `--posteriors` of a command that has several."""
    flags.disclaim_key_flags()
    flags.DEFINE_multi_string(
        "sweep",
        [],
        "FLAG=VALUE,VALUE,...: a run for each value of another flag; given again, a run for each "
        "combination. Runs are told of in WORKDIR/sweep.jsonl; one that is there is not made again",
    )
    if posteriors:
        names = ", ".join(posteriors)
        flags.DEFINE_list("posteriors", default, f"to compare, of {names}; or all")


def sweep(
    config: Config,
    workdir: Path,
    settings: EvaluationSettings,
    posteriors: Mapping[str, Changes] | None = None,
    check: Callable[[Config], None] | None = None,
) -> list[dict]:
    """Trains and evaluates the runs that the flags ask for, each in a directory of `workdir`.

    Writes `sweep.jsonl` there, and `sweep.md`, a table of all its rows. A row has `run` (its
    directory), `label` (the same, without the seed), `seed`, `config` (what is not by default),
    `seconds` of training, and the entries of its `evaluation`. Of a run that diverged the
    evaluation is empty, and `diverged` says at which step; the others go on.

    Args:
        config: of what the flags do not vary.
        workdir: of them all.
        settings: how each is evaluated.
        posteriors: those of `define_sweep_flags`.
        check: may refuse a run's config, before the first is trained.

    Raises:
        ValueError: for a flag that does not exist, or a value that it does not take; or with
            `--distributed`.
        FloatingPointError: where every run diverged.
    """
    if flags.FLAGS.distributed:
        raise ValueError("distributed was given with a sweep; allowed is a single run of train.py")
    runs = _runs(config, posteriors or {"": {}})
    if check:
        for _, of_run in runs.values():
            check(of_run)
    cases = [_case(name, label, config) for name, (label, config) in runs.items()]

    def measure(case: dict) -> dict:
        _, config = runs[case["run"]]
        folder = workdir / case["run"]
        try:
            entries = experiment.train_and_evaluate(config, folder, data.load_for(config), settings)
        except FloatingPointError as error:
            return {**case, "seconds": None, "evaluation": [], "diverged": str(error)}
        metrics = reporting.read_metrics(folder / "metrics.jsonl")
        return {**case, "seconds": reporting.training_seconds(metrics), "evaluation": entries}

    told = ("evaluation_images", "evaluation_samples", "critic_fit_steps")
    rows = measure_cases(
        workdir / "sweep.jsonl",
        cases,
        measure,
        reporting.sweep_line,
        {name: flags.FLAGS[name].value for name in told},
    )
    write_atomically(workdir / "sweep.md", reporting.sweep_table(rows).encode())
    rows = [row for row in rows if row["run"] in runs]
    if all("diverged" in row for row in rows):
        raise FloatingPointError(rows[-1]["diverged"])
    return rows


def _runs(config: Config, posteriors: Mapping[str, Changes]) -> dict[str, tuple[str, Config]]:
    """Label and config of each run by its name."""
    names = flags.FLAGS.posteriors if "posteriors" in flags.FLAGS else [""]
    check_choices("posteriors", names, [*posteriors, "all"])
    if not names:
        raise ValueError(f"posteriors was empty; allowed are some of {', '.join(posteriors)}")
    names = list(posteriors) if "all" in names else names
    settings = [_values(text) for text in flags.FLAGS.sweep]
    found = {}
    for name, *values in itertools.product(names, *settings):
        own = {
            field: value for field, value in posteriors[name].items()
            if field not in TOLD or not flags.FLAGS[field].present
        }  # fmt: skip
        parts = [name, *(f"{field}={value}" for field, value in values)]
        label = [part for part in parts if part and not part.startswith("seed=")]
        run = dataclasses.replace(config, **{**own, **dict(values)})
        found["-".join(filter(None, parts))] = "-".join(label), run
    return found


def _values(text: str) -> list[tuple[str, Any]]:
    """FLAG=VALUE,VALUE as (flag, value) pairs."""
    name, equals, values = text.partition("=")
    names = [field.name for field in dataclasses.fields(Config) if not field.metadata["same_run"]]
    if name not in names or not equals:
        raise ValueError(f"sweep was {text}; allowed is FLAG=VALUE,... of {', '.join(names)}")
    try:
        return [(name, flags.FLAGS[name].parser.parse(value)) for value in values.split(",")]
    except ValueError as error:
        raise ValueError(f"sweep was {text}: {error}") from None


def _case(name: str, label: str, config: Config) -> dict:
    told = {
        field.name: value
        for field in dataclasses.fields(Config)
        if (value := getattr(config, field.name)) != field.default
        and not field.metadata["same_run"]
        and field.name != "seed"
    }
    return {"run": name, "label": label, "seed": config.seed, "config": told}
