"""How robust training is: the table and the figure of experiments/robustness.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avb_jax.files import markdown_table
from avb_jax.reporting.style import ACCENT, FAINT, RULE, TARGET, Page, style

Row = Mapping[str, Any]
COLUMNS = ("problem", "setting", "factor", "runs", "finite", "log p(x) ≥: mean", "least", "most",
           "its ELBO in training ≈: mean", "most", "least spread of q")  # fmt: skip
SUMMARIES = {"log_likelihood": (np.mean, np.min, np.max), "elbo_estimate": (np.mean, np.max)}
_WIDTH, _HEIGHT, _GAP, _MARGIN = 1.9, 1.7, 0.75, 0.6


def robustness_line(row: Row) -> str:
    """One run in a line of text."""
    name = f"{row['problem']}, {row['setting']} × {row['factor']:g}, seed {row['seed']}: "
    if not row["finite"]:
        return name + row["error"]
    return name + (
        f"log p(x) ≥ {row['log_likelihood']:.2f}, ELBO estimate {row['elbo_estimate']:.2f}, "
        f"spread of q {row['spread']:.2g}, {row['seconds']:.0f} s"
    )


def _groups(rows: Sequence[Row]) -> dict[tuple, list[Row]]:
    """The runs that differ by their seeds alone; the defaults of a problem come first."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["problem"], row["setting"], row["factor"]), []).append(row)
    by_problem = lambda item: (item[0][0], item[0][1] != "defaults", *item[0])  # noqa: E731
    return dict(sorted(groups.items(), key=by_problem))


def robustness_table(rows: Sequence[Row]) -> str:
    """All runs as a Markdown table, a line for those that differ by their seeds alone; nats."""
    lines = []
    for (problem, setting, factor), runs in _groups(rows).items():
        finite = [run for run in runs if run["finite"]]
        cells = [problem, setting, f"{factor:g}", str(len(runs)), str(len(finite))]
        for name, summaries in SUMMARIES.items():
            values = [run[name] for run in finite]
            cells += [f"{f(values):.2f}" if finite else "" for f in summaries]
        cells.append(f"{min(run['spread'] for run in finite):.2g}" if finite else "")
        lines.append(cells)
    return markdown_table(COLUMNS, lines)


def draw_robustness(rows: Sequence[Row], path: Path) -> Path:
    """log p(x) against each setting, a row of panels for each problem; crosses are not finite."""
    groups = _groups(rows)
    problems = list(dict.fromkeys(name for name, *_ in groups))
    settings = list(dict.fromkeys(name for _, name, _ in groups if name != "defaults"))
    columns = ["defaults", *settings]
    with style():
        page = Page(
            _MARGIN + len(columns) * (_WIDTH + _GAP),
            len(problems) * (_HEIGHT + _GAP) + 0.2,
            "Test log-likelihood away from the defaults, nats",
            "a point for each seed; crosses at the bottom: runs that stopped being finite",
            "",
        )
        for row, problem in enumerate(problems):
            for column, setting in enumerate(columns):
                place = (_MARGIN + column * (_WIDTH + _GAP), 0.25 + row * (_HEIGHT + _GAP))
                axes = page.axes(*place, _WIDTH, _HEIGHT)
                _draw_panel(axes, groups, problem, setting)
                if column == 0:
                    axes.set_title(f"{problem}: seeds")
                elif row == 0:
                    axes.set_title(setting)
        return page.save(Path(path))


def _draw_panel(axes, groups: Mapping[tuple, list[Row]], problem: str, setting: str) -> None:
    of_seeds = setting == "defaults"
    names = ("defaults",) if of_seeds else ("defaults", setting)
    varied = {
        run["seed"] for key, runs in groups.items() if key[:2] == (problem, setting) for run in runs
    }
    means = []
    for (of_problem, name, factor), runs in groups.items():
        if of_problem != problem or name not in names:
            continue
        finite = [run for run in runs if run["finite"]]
        values = [run["log_likelihood"] for run in finite]
        x = [run["seed"] for run in finite] if of_seeds else [factor] * len(values)
        axes.plot(x, values, "o", color=ACCENT, markersize=3, alpha=0.7)
        broken = [run["seed"] if of_seeds else factor for run in runs if not run["finite"]]
        axes.plot(broken, [0.03] * len(broken), "x", color=TARGET,
                  transform=axes.get_xaxis_transform())  # fmt: skip
        # The line is of the seeds with which the setting was varied.
        if shared := [run["log_likelihood"] for run in finite if run["seed"] in varied]:
            means.append((factor, np.mean(shared)))
    if of_seeds:
        axes.set_xlabel("seed", color=FAINT)
        return
    if means:
        axes.plot(*zip(*sorted(means), strict=True), color=RULE, zorder=0)
    axes.set_xscale("log", base=2)
    factors = sorted({factor for of, name, factor in groups if of == problem and name in names})
    axes.set_xticks(factors, [f"×{factor:g}" for factor in factors])
    axes.tick_params(which="minor", bottom=False)
