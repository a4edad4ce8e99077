"""How right critics are: the table and the figure of experiments/critic_accuracy.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avb_jax.files import markdown_table
from avb_jax.reporting.style import FAINT, PALETTE, RULE, Page, style

Row = Mapping[str, Any]
COLUMNS = (
    ("sampler", lambda row: row["sampler"] + (", given x" if row["conditional"] else "")),
    ("D", lambda row: str(row["dim"])),
    ("contrast", lambda row: row["contrast"]),
    ("loss", lambda row: row["loss"]),
    ("bias of log q̂", lambda row: f"{_number(row['bias'], '+.3f')} ± {_number(row['stderr'])}"),
    ("RMSE", lambda row: _number(row["rmse"])),
    ("RMSE of r alone", lambda row: _number(row["contrast_rmse"])),
    ("KL(q‖r)", lambda row: _number(row["kl"])),
    ("its estimate", lambda row: _number(row["kl_estimate"])),
    ("s", lambda row: f"{row['seconds']:.0f}"),
)
_WIDTH, _HEIGHT, _GAP = 4.2, 2.6, 0.75
_LEGEND = 1.7


def _number(value: float | None, form: str = ".3f") -> str:
    return "not finite" if value is None else format(value, form)


def accuracy_line(row: Row) -> str:
    """One fit in a line of text."""
    return ", ".join(f"{name} {write(row)}" for name, write in COLUMNS)


def accuracy_table(rows: Sequence[Row]) -> str:
    """All fits as a Markdown table; errors of log q̂ over fresh draws of q, nats."""
    ordered = sorted(
        rows, key=lambda r: (r["contrast"], r["loss"], r["conditional"], r["sampler"], r["dim"])
    )
    cells = ([write(row) for _, write in COLUMNS] for row in ordered)
    return markdown_table([name for name, _ in COLUMNS], cells)


def draw_accuracy(rows: Sequence[Row], path: Path) -> Path:
    """RMSE and bias of log q̂ against D: a row of panels for each contrast and loss.

    One with a single D or sampler is left to the table, unless there is nothing else.
    """
    seen: dict[tuple[str, str], tuple[set[int], set[str]]] = {}
    for row in rows:
        dims, names = seen.setdefault((row["contrast"], row["loss"]), (set(), set()))
        dims.add(row["dim"])
        names.add(row["sampler"])
    several = (key for key, (dims, names) in seen.items() if len(dims) > 1 and len(names) > 1)
    settings = sorted(several) or sorted(seen)
    samplers = sorted({row["sampler"] for row in rows})
    colours = dict(zip(samplers, PALETTE, strict=False))
    with style():
        page = Page(
            2 * (_WIDTH + _GAP) + _LEGEND,
            len(settings) * (_HEIGHT + _GAP),
            "Error of log q̂ on fresh draws, nats",
            "solid: q(z); dashed and hollow: q(z|x)",
            "",
        )
        legend: dict[str, Any] = {}
        right: list[Any] = []
        for number, setting in enumerate(settings):
            some = [row for row in rows if (row["contrast"], row["loss"]) == setting]
            top = number * (_HEIGHT + _GAP) + 0.2
            for column, name in enumerate(("rmse", "bias")):
                axes = page.axes(0.4 + column * (_WIDTH + _GAP), top, _WIDTH, _HEIGHT)
                _draw_lines(axes, some, name, colours)
                axes.set_title(
                    f"{'RMSE' if name == 'rmse' else name}, {' contrast, '.join(setting)}"
                )
            handles, labels = axes.get_legend_handles_labels()
            legend |= dict(zip(labels, handles, strict=True))
            right.append(axes)
        corner = right[0]
        corner.legend(legend.values(), legend.keys(), loc="upper left", bbox_to_anchor=(1.02, 1.0))
        return page.save(Path(path))


def _draw_lines(axes, rows: Sequence[Row], name: str, colours: Mapping[str, str]) -> None:
    axes.axhline(0.0, color=RULE, linewidth=0.8)
    for sampler, colour in colours.items():
        # q(z) last: of lines of one name the legend shows that.
        for given_x, dashes, inside in ((True, "--", "white"), (False, "-", colour)):
            line = sorted(
                (row["dim"], row[name])
                for row in rows
                if row["sampler"] == sampler
                and row["conditional"] == given_x
                and row[name] is not None
            )
            if line:
                dims, values = zip(*line, strict=True)
                axes.plot(dims, values, dashes, marker="o", markersize=3, color=colour,
                          markerfacecolor=inside, linewidth=1.2, label=sampler)  # fmt: skip
    ticks = sorted({row["dim"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(dim) for dim in ticks])
    axes.tick_params(which="minor", bottom=False)
    axes.set_xlabel("D", color=FAINT)
