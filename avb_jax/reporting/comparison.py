"""What several runs are worth, in one figure: every bound drawn towards what it bounds."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avb_jax.reporting.style import FAINT, PALETTE, RULE, Page, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# An arrow points to where the quantity is.
MARKS: dict[str, dict[str, Any]] = {
    "lower bound": {"marker": ">"},
    "upper bound": {"marker": "<"},
    "exact": {"marker": "D"},
    "estimate": {"marker": "o", "markerfacecolor": "white"},
}
PANELS = {"log_likelihood": "log p(x)", "elbo": "ELBO"}
_WIDTH, _ROW, _GAP = 5.2, 0.4, 0.7

Entry = Mapping[str, Any]


def run_names(workdirs: Sequence[str | os.PathLike]) -> dict[str, Path]:
    """The directories of runs by the shortest paths that tell them apart."""
    paths = [Path(workdir).resolve() for workdir in workdirs]
    base = Path(os.path.commonpath(paths))
    base = base.parent if base in paths else base
    return {str(path.relative_to(base)): path for path in paths}


def of_test(entries: Sequence[Entry]) -> list[Entry]:
    """Those of test images; all of them where none is."""
    return [e for e in entries if e.get("split", "test") == "test"] or list(entries)


def draw_comparison(runs: Mapping[str, Sequence[Entry]], path: Path) -> Path:
    """Writes the `comparison_page` of these runs as PNG; raises as it does."""
    return comparison_page(runs).save(Path(path))


def comparison_page(runs: Mapping[str, Sequence[Entry]]) -> Page:
    """One panel for log p(x), one for the ELBO: a row for each run, a colour for each method.

    Args:
        runs: the name of each run and its entries, as in `write_evaluation`; of several splits
            the test images' alone are drawn.

    Raises:
        ValueError: if no run says anything of either.
    """
    runs = {run: of_test(entries) for run, entries in runs.items()}
    panels = {
        title: rows
        for name, title in PANELS.items()
        if (rows := [(run, e) for run in runs for e in runs[run] if e["name"] == name])
    }
    if not panels:
        raise ValueError(f"the runs had no entries; needed are some of {', '.join(PANELS)}")
    methods = list(dict.fromkeys(e.get("method", "") for rows in panels.values() for _, e in rows))
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(methods)}
    height = _ROW * (len(runs) + 0.6)
    with style():
        left = _room(runs)
        page = Page(
            left + _WIDTH + _room(methods),
            len(panels) * (height + _GAP) - 0.15,
            "Likelihoods, nats per image",
            "▷ at least, ◁ at most, ◆ exactly, ○ an estimate; lines: ± 2 standard errors",
            "",
        )
        for number, (title, rows) in enumerate(panels.items()):
            axes = page.axes(left, 0.2 + number * (height + _GAP), _WIDTH, height)
            _draw_panel(axes, title, list(runs), rows, colours)
            if number == 0:
                _draw_legend(axes, colours)
        return page


def _room(texts: Iterable[str]) -> float:
    """Inches for the longest of these texts beside the axes."""
    return max(1.6, 0.5 + 0.075 * max(map(len, texts)))


def _draw_panel(
    axes: "Axes",
    title: str,
    names: list[str],
    rows: Sequence[tuple[str, Entry]],
    colours: Mapping[str, str],
) -> None:
    methods = list(dict.fromkeys(entry.get("method", "") for _, entry in rows))
    for run, entry in rows:
        error, method = 2.0 * float(entry.get("stderr") or 0.0), entry.get("method", "")
        lane = (methods.index(method) + 0.5) / len(methods) - 0.5
        axes.errorbar(
            float(entry["value"]), names.index(run) + 0.7 * lane, xerr=error,
            color=colours[method], elinewidth=0.8, markersize=6, linestyle="none",
            **MARKS[entry["kind"]],
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_legend(axes: "Axes", colours: Mapping[str, str]) -> None:
    for name, colour in colours.items():
        axes.plot([], [], "s", color=colour, label=name)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.05), labelcolor=FAINT)
