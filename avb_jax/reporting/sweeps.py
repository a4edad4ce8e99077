"""What the runs of a sweep say: a line for each, and a table of means over their seeds."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avb_jax.files import markdown_table
from avb_jax.reporting.comparison import of_test

Row = Mapping[str, Any]
SIGNS = {"lower bound": "≥", "exact": "=", "estimate": "≈", "upper bound": "≤"}
TIGHTEST = {"lower bound": max, "upper bound": min}
QUANTITIES = {
    "log_likelihood": "log p(x)",
    "elbo": "ELBO",
    "distortion": "−reconstruction",
    "rate": "KL(q(z\\|x)‖p(z))",
    "aggregate_kl": "KL(q(z)‖p(z))",
}
Column = tuple[str, str]  # an entry's name and kind


def step_seconds(metrics: Mapping[str, np.ndarray]) -> float:
    """Seconds of a step of a `metrics.jsonl`, by the median of its rates.

    They are the computation's own, which a machine that halts, or has other jobs now and then, is
    not.
    """
    return 1.0 / float(np.median(metrics["steps_per_second"]))


def training_seconds(metrics: Mapping[str, np.ndarray]) -> float | None:
    """Seconds of all steps of a `metrics.jsonl`, each as the median; None without rates."""
    if "steps_per_second" not in metrics:
        return None
    return round(float(metrics["step"][-1]) * step_seconds(metrics), 3)


def sweep_values(row: Row) -> dict[Column, float]:
    """What is said of as many test images as any: of several bounds the tightest."""
    entries = of_test(row["evaluation"])
    told = [e for e in entries if e["name"] in QUANTITIES and e["value"] is not None]
    most, found = max((e["n"] for e in told), default=0), dict[Column, float]()
    for entry in told:
        column, value = (entry["name"], entry["kind"]), float(entry["value"])
        if entry["n"] == most:
            tightest = TIGHTEST.get(entry["kind"], lambda first, _: first)
            found[column] = tightest(found.get(column, value), value)
    return found


def sweep_line(row: Row) -> str:
    """One run in a line of text."""
    if "diverged" in row:
        return f"{row['run']}: diverged, {row['diverged'].partition(';')[0]}"
    said = ", ".join(f"{_title(c)} {value:.3f}" for c, value in sweep_values(row).items())
    return f"{row['run']}: {said}; {_minutes([row])} min of training".replace("\\|", "|")


def sweep_table(rows: Sequence[Row]) -> str:
    """Means over the seeds of each label in nats, ± their standard error, as Markdown.

    A line is of one configuration, and has each seed once. Runs that diverged have no part in the
    means, and are counted beside the seeds.
    """
    groups: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        group = row["label"], json.dumps(row.get("config"), sort_keys=True)
        groups.setdefault(group, {})[row["seed"]] = row
    values = {group: [sweep_values(r) for r in own.values()] for group, own in groups.items()}
    columns = [
        (name, kind) for name in QUANTITIES for kind in SIGNS
        if any((name, kind) in found for own in values.values() for found in own)
    ]  # fmt: skip
    timed = any(row["seconds"] for row in rows)
    titles = ["run", "seeds", *map(_title, columns), *["training, min"] * timed]
    lines = []
    for group, own in values.items():
        finite = sum(map(bool, own))
        seeds = str(finite) if finite == len(own) else f"{finite}, {len(own) - finite} diverged"
        minutes = _minutes(list(groups[group].values()))
        cells = [_mean([found[c] for found in own if c in found]) for c in columns]
        lines.append([group[0], seeds, *cells, *[minutes] * timed])
    return markdown_table(titles, lines)


def _minutes(rows: Sequence[Row]) -> str:
    """Of training, on average; nothing where it is not known."""
    seconds = [row["seconds"] for row in rows if row["seconds"]]
    return f"{np.mean(seconds) / 60:.1f}" if seconds else ""


def _title(column: Column) -> str:
    name, kind = column
    return f"{QUANTITIES[name]} {SIGNS[kind]}"


def _mean(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{np.mean(values):.3f}".replace("-", "−")
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"
