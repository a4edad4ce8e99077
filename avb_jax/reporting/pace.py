"""What the runs of a sweep had learned after how many minutes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avb_jax.reporting.curves import draw_line
from avb_jax.reporting.metrics import read_metrics
from avb_jax.reporting.style import FAINT, PALETTE, RULE, Page, style
from avb_jax.reporting.sweeps import Row, step_seconds, sweep_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 5.2, 3.0
_FIRST = 0.1  # share of a run's minutes before those that are shown


def draw_pace(rows: Sequence[Row], workdir: Path, path: Path) -> Path:
    """Writes the `pace_page` of these runs as PNG; raises as it does."""
    return pace_page(rows, workdir).save(Path(path))


def pace_page(rows: Sequence[Row], workdir: Path) -> Page:
    """Each run's ELBO estimate against its minutes of training, and where log p(x) ended.

    Minutes are of steps at the run's median rate. A label has a colour. The curve is of training
    batches, and no bound where a critic estimates it; the mark at its end is the evaluation's lower
    bound of log p(x), of test images.

    Args:
        rows: of a sweep, with `label`, `run`, whose `metrics.jsonl` is read, and `evaluation`.
        workdir: of the sweep.

    Raises:
        ValueError: where every run diverged, or the metrics of another one are missing or damaged.
    """
    rows = [row for row in rows if "diverged" not in row]
    if not rows:
        raise ValueError("every run diverged; needed is one that did not")
    labels = list(dict.fromkeys(row["label"] for row in rows))
    colours = {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}
    with style():
        page = Page(
            _WIDTH + 1.9,
            _HEIGHT + 0.45,
            "Learned by minutes of training",
            "lines: the ELBO that training estimates; ▷ log p(x) at least, of test images; nats",
            "",
        )
        axes = page.axes(0.55, 0.0, _WIDTH, _HEIGHT)
        ranges = [_draw_run(axes, row, workdir, colours[row["label"]]) for row in rows]
        for label, colour in colours.items():
            axes.plot([], [], color=colour, lw=1.6, label=label)
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlabel("minutes, at the run's median rate of steps", color=FAINT)
        axes.grid(color=RULE, lw=0.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), labelcolor=FAINT)
        return page


def _draw_run(axes: "Axes", row: Row, workdir: Path, colour: str) -> tuple[float, float]:
    """Draws one run, and gives the range that should be seen."""
    metrics = read_metrics(workdir / row["run"] / "metrics.jsonl")
    minutes, elbo = metrics["step"] * step_seconds(metrics) / 60.0, metrics["elbo_estimate"]
    seen = np.isfinite(elbo) & (minutes >= _FIRST * minutes[-1])
    low, high = draw_line(axes, minutes[seen], elbo[seen], colour)
    bound = sweep_values(row).get(("log_likelihood", "lower bound"))
    if bound is None:
        return low, high
    axes.plot(minutes[-1], bound, ">", color=colour, ms=7.0)
    return min(low, bound), max(high, bound)
