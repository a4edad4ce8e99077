"""What several runs are worth, in one figure: every bound drawn towards what it bounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avb_jax.reporting.style import FAINT, PALETTE, RULE, Page, style

# An arrow points to where the quantity is.
MARKS = {
    "lower bound": {"marker": ">"},
    "upper bound": {"marker": "<"},
    "exact": {"marker": "D"},
    "estimate": {"marker": "o", "markerfacecolor": "white"},
}
PANELS = {"log_likelihood": "log p(x)", "elbo": "ELBO"}
_WIDTH, _ROW, _GAP, _NAMES, _LEGEND = 5.2, 0.4, 0.7, 1.8, 1.6

Entry = Mapping[str, Any]


def draw_comparison(runs: Mapping[str, Sequence[Entry]], path: Path) -> Path:
    """One panel for log p(x), one for the ELBO: a row for each run, a colour for each method.

    Args:
        runs: the name of each run and its entries, as in `write_evaluation`.
        path: of the PNG.

    Raises:
        ValueError: if no run says anything of either.
    """
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
        page = Page(
            _NAMES + _WIDTH + _LEGEND,
            len(panels) * (height + _GAP) - 0.15,
            "Likelihoods, nats per image",
            "▷ at least, ◁ at most, ◆ exactly, ○ an estimate; lines: ± 2 standard errors",
            "",
        )
        for number, (title, rows) in enumerate(panels.items()):
            axes = page.axes(_NAMES, 0.2 + number * (height + _GAP), _WIDTH, height)
            _draw_panel(axes, title, list(runs), rows, colours)
            if number == 0:
                _draw_legend(axes, colours)
        return page.save(Path(path))


def _draw_panel(axes, title: str, names: list[str], rows, colours: Mapping[str, str]) -> None:
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


def _draw_legend(axes, colours: Mapping[str, str]) -> None:
    for name, colour in colours.items():
        axes.plot([], [], "s", color=colour, label=name)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.05), labelcolor=FAINT)
