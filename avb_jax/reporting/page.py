"""What the files of one run, or of several, say, as one page of HTML that needs nothing else."""

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from avb_jax.config import Config, load_config
from avb_jax.files import write_atomically
from avb_jax.reporting.comparison import PANELS, comparison_page, run_names
from avb_jax.reporting.curves import curve_pages
from avb_jax.reporting.markup import document, element, image, table
from avb_jax.reporting.metrics import read_metrics
from avb_jax.reporting.style import DPI, PALETTE
from avb_jax.reporting.tables import NUMBERS, read_evaluation, remarks, table_columns
from avb_jax.reporting.traversals import TRAVERSALS

# Pictures of a run, as far as they were drawn, and what they show.
PICTURES = {
    "figures/posteriors.png": "draws of q(z|x) for some images",
    "figures/modes.png": "posteriors with two modes",
    "figures/latent.png": "the latent space",
    "figures/reconstructions.png": "reconstructions",
    "figures/samples.png": "samples",
    f"samples{TRAVERSALS}": "latent traversals",
    "figures/data.png": "data",
}
SETTLED = 0.1  # the share of a run, its last, whose metrics stand for the critic that came of it
NONE = "–"


class RunFiles(NamedTuple):
    """What the files in a run's directory say of it.

    Attributes:
        workdir: the directory.
        config: its configuration.
        metrics: columns, as `read_metrics` gives them; none where nothing was trained yet.
        entries: of its evaluation; none where it was not evaluated yet.
    """

    workdir: Path
    config: Config
    metrics: dict[str, np.ndarray]
    entries: list[dict[str, Any]]


Runs = Mapping[str, RunFiles]


def write_report(workdirs: Sequence[str | os.PathLike], path: str | os.PathLike) -> Path:
    """Writes one page of HTML about these runs, that links to nothing and loads nothing.

    Configuration, curves, pictures, evaluation, the critic's calibration and timings, each as far
    as the runs' files tell of it; several runs stand side by side.

    Args:
        workdirs: directories of runs, one at least.
        path: of the page.

    Raises:
        ValueError: for a directory that holds no run, or a file of it that is damaged.
    """
    runs = {name: _read(workdir) for name, workdir in run_names(workdirs).items()}
    several = len(runs) > 1
    title = "Runs side by side" if several else f"Run {next(iter(runs))}"
    sections = {
        "Evaluation": _evaluation(runs),
        "Curves": _curves(runs),
        **{
            f"Pictures of {name}" if several else "Pictures": _pictures(runs[name]) for name in runs
        },
        "The critic's calibration": _calibration(runs),
        "Timings": _timings(runs),
        "Configuration": _configuration(runs),
    }
    body = [element("h1", title)]
    body += [element("p", _caption(name, run), class_="faint") for name, run in runs.items()]
    for heading, parts in sections.items():
        if parts:
            body.append(element("section", element("h2", heading), *parts))
    return write_atomically(path, document(title, *body))


def _read(workdir: Path) -> RunFiles:
    config = load_config(workdir / "config.json")
    metrics, evaluation = workdir / "metrics.jsonl", workdir / "evaluation.json"
    return RunFiles(
        workdir,
        config,
        read_metrics(metrics) if metrics.exists() else {"step": np.zeros(0, np.int64)},
        read_evaluation(evaluation) if evaluation.exists() else [],
    )


def _caption(name: str, run: RunFiles) -> str:
    config, steps = run.config, int(run.metrics["step"].max(initial=0))
    return (
        f"{name}: {Path(config.dataset).name}, {config.encoder} encoder, D = {config.latent_dim}, "
        f"seed {config.seed}, {steps:,} of {config.num_steps:,} steps"
    )


def _evaluation(runs: Runs) -> list[Element]:
    """A table for each split, and what several runs say of log p(x) and the ELBO as a figure."""
    parts = []
    for split in dict.fromkeys(e.get("split") for run in runs.values() for e in run.entries):
        of_split = {
            name: [entry for entry in run.entries if entry.get("split") == split]
            for name, run in runs.items()
        }
        named = of_split if len(runs) > 1 else {"": next(iter(of_split.values()))}
        parts += [element("h3", f"{split} split")] if split else []
        parts.append(table(table_columns(named), NUMBERS))
        if len(runs) == 1:
            (run,), (entries,) = runs.values(), of_split.values()
            parts += [element("p", line) for line in remarks(entries, run.config.explicit)]
        elif any(e["name"] in PANELS for entries in of_split.values() for e in entries):
            svg = comparison_page(of_split).svg()
            drawn = image(svg, "svg+xml", "likelihoods side by side", class_="plot wide")
            parts.append(element("div", drawn, class_="scroll"))
    missing = [name for name, run in runs.items() if not run.entries]
    return parts + [element("p", f"{name} was not evaluated yet.") for name in missing]


def _curves(runs: Runs) -> list[Element]:
    pages = curve_pages({name: run.metrics for name, run in runs.items()})
    if not pages:
        return [element("p", "Nothing was trained yet.")]
    drawn = [
        image(page.svg(), "svg+xml", f"{name} at each step", class_="plot")
        for name, page in pages.items()
    ]
    parts = [element("div", *drawn, class_="curves")]
    if "critic_loss" in pages:
        remark = "A critic's ELBO estimate is not a bound; dashed: a critic that is right."
        parts.insert(0, element("p", remark, class_="faint"))
    if len(runs) > 1:
        swatches = [
            element("span", class_="swatch", style=f"background: {PALETTE[i % len(PALETTE)]}")
            for i in range(len(runs))
        ]
        names = [element("li", *pair) for pair in zip(swatches, runs, strict=True)]
        parts.insert(0, element("ul", *names, class_="legend"))
    return parts


def _pictures(run: RunFiles) -> list[Element]:
    drawn = [
        _picture((run.workdir / name).read_bytes(), shows)
        for name, shows in PICTURES.items()
        if (run.workdir / name).exists()
    ]
    return [element("div", *drawn, class_="pictures")] if drawn else []


def _picture(png: bytes, shows: str) -> Element:
    from PIL import Image

    width = Image.open(io.BytesIO(png)).width * 96 // DPI  # as wide as it was drawn, in CSS pixels
    drawn = image(png, "png", shows)
    return element("figure", drawn, class_="scroll", style=f"--whole: {width}px")


def _calibration(runs: Runs) -> list[Element]:
    rows = []
    for name, run in runs.items():
        if "log_ratio" in run.metrics:
            count = max(1, round(SETTLED * len(run.metrics["step"])))
            last = {key: float(np.mean(column[-count:])) for key, column in run.metrics.items()}
            rows.append(
                (name, "trained: the last tenth of its training", *_critic(last, "log_ratio"))
            )
        fitted = [entry for entry in run.entries if "calibration" in entry]
        for entry in {entry.get("split"): entry for entry in fitted}.values():
            critic = f"fitted in evaluation, {entry.get('split')} split"
            rows.append((name, critic, *_critic(entry["calibration"], "kl")))
    if not rows:
        return []
    titles = ("run", "critic", "E_r[exp s]: 1 if right", "balance: 0 if right", "E_q[s], nats")
    said = "E_q[s] is the critic's estimate of KL(q‖r), too low by what it misses."
    return [_by_run(runs, titles, rows, titles[2:]), element("p", said, class_="faint")]


def _critic(values: Mapping[str, Any], log_ratio: str) -> list[str]:
    names = ("reference_mean_ratio", "balance", log_ratio)
    return [_with_error(values.get(name), values.get(f"{name}_stderr")) for name in names]


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _timings(runs: Runs) -> list[Element]:
    rows = [(name, *_pace(run), _evaluation_seconds(run)) for name, run in runs.items()]
    numbers = ("steps a second", "images a second", "first call, s", "training, s")
    titles = ("run", *numbers, "evaluation, s")
    said = (
        "Steps a second: the median over device calls. The first call compiles. Training is the "
        "sum of all calls, without what saves and draws between them."
    )
    return [_by_run(runs, titles, rows, numbers), element("p", said, class_="faint")]


def _by_run(
    runs: Runs, titles: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str]
) -> Element:
    """A table of rows that begin with the run's name, which is left out where there is but one."""
    columns = dict(zip(titles, zip(*rows, strict=True), strict=True))
    if len(runs) == 1:
        del columns["run"]
    return table(columns, numbers)


def _pace(run: RunFiles) -> list[str]:
    """Steps and images a second, seconds of the first call and of all."""
    rates = run.metrics.get("steps_per_second", np.zeros(0))
    if not rates.size or not np.isfinite(rates).all():
        return [NONE] * 4
    seconds = np.diff(run.metrics["step"], prepend=0) / rates
    pace = float(np.median(rates))
    images = pace * run.config.batch_size
    return [f"{pace:,.1f}", f"{images:,.0f}", f"{seconds[0]:,.1f}", f"{seconds.sum():,.1f}"]


def _evaluation_seconds(run: RunFiles) -> str:
    """What each method took; entries that it gave together say the same."""
    took = {
        (entry.get("split"), entry.get("method", "")): entry["seconds"]
        for entry in run.entries
        if entry.get("seconds") is not None
    }
    return ", ".join(f"{method} {seconds:,.0f}" for (_, method), seconds in took.items()) or NONE


def _configuration(runs: Runs) -> list[Element]:
    """What differs from the defaults, or between the runs; then all of it, folded."""
    fields = dataclasses.fields(Config)
    changed = [
        field
        for field in fields
        if any(getattr(run.config, field.name) != field.default for run in runs.values())
    ]
    whole = element("details", element("summary", "All settings"), _settings(runs, fields))
    if not changed:
        return [element("p", "Every setting has its default."), whole]
    return [_settings(runs, changed), whole]


def _settings(runs: Runs, fields: Sequence[dataclasses.Field]) -> Element:
    columns = {"setting": [field.name for field in fields]}
    for name, run in runs.items():
        title = name if len(runs) > 1 else "value"
        columns[title] = [_shown(getattr(run.config, field.name)) for field in fields]
    columns["default"] = [_shown(field.default) for field in fields]
    return table(columns)


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)
