"""How near posteriors are to known ones: table, kept draws and figures of the experiments."""

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avb_jax.files import markdown_table, write_atomically
from avb_jax.reporting.style import ACCENT, FAINT, INK, PALETTE, RULE, Page, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
Limits = tuple[float, float]
COLUMNS = ("target", "method", "seed", "mean", "spread", "quantiles", "C2ST", "KL, nats", "s")
DIVERGED = "not finite"  # draws, some of them
MOST_DRAWS = 2000  # kept of a method
MOST_MARGINALS = 6
BINS = 36
COLOURS = (*PALETTE[:4], *PALETTE[5:])  # but for the grey, which is the reference's
CELLS = 48  # along each side of a joint density
_SIDE, _GAP, _HEAD, _FOOT, _LEGEND = 1.9, 0.5, 0.3, 0.5, 1.2
_LEFT = 0.6  # for labels
_LEAST_WIDTH = 6.0  # of titles


def _cells(row: Row) -> list[str]:
    errors = [
        f"{row[name]:.3f}" if name in row else DIVERGED
        for name in ("mean", "spread", "quantiles", "c2st")
    ]
    kl = f"{row['kl']:.3f}" if "kl" in row else ""
    return [row["target"], row["method"], str(row["seed"]), *errors, kl, f"{row['seconds']:.0f}"]


def posterior_line(row: Row) -> str:
    """One fit in a line of text."""
    target, method, seed, mean, spread, quantiles, c2st, kl, seconds = _cells(row)
    of_grid = f", KL {kl} nats" if kl else ""
    return (
        f"{target}, {method}, seed {seed}: errors of means {mean}, spreads {spread}, quantiles "
        f"{quantiles}; C2ST {c2st}{of_grid}; {seconds} s"
    )


def posterior_table(rows: Sequence[Row]) -> str:
    """All fits as a Markdown table, target by target, nearest first (by C2ST)."""
    order = list(dict.fromkeys(row["target"] for row in rows))
    nearest = sorted(rows, key=lambda row: (order.index(row["target"]), row.get("c2st", 1.0)))
    return markdown_table(COLUMNS, map(_cells, nearest))


def posterior_summary(rows: Sequence[Row]) -> str:
    """C2ST of each method, target by target, as a Markdown table; means over seeds."""
    targets, methods = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("target", "method")
    )

    def cell(target: str, method: str) -> str:
        found = [row for row in rows if (row["target"], row["method"]) == (target, method)]
        if any("c2st" not in row for row in found):
            return DIVERGED
        return f"{np.mean([row['c2st'] for row in found]):.3f}" if found else ""

    lines = [[target, *(cell(target, method) for method in methods)] for target in targets]
    return markdown_table(("C2ST", *methods), lines)


def save_draws(
    path: str | os.PathLike, draws: np.ndarray, names: Sequence[str], most: int = MOST_DRAWS
) -> Path:
    """Writes at most so many of the draws [n, D], evenly spread, and the parameters' names [D]."""
    chosen = np.linspace(0, len(draws) - 1, min(most, len(draws))).astype(int)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, draws=np.asarray(draws, np.float32)[chosen], names=np.array(names))
    return write_atomically(path, buffer.getvalue())


def read_draws(path: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """The names [D] and draws [n, D] that `save_draws` wrote.

    Raises:
        ValueError: where the file is missing or damaged.
    """
    try:
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as arrays:
            return arrays["names"].tolist(), arrays["draws"].astype(np.float64)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"the draws {path} are missing or damaged; make them again") from None


def draw_posteriors(
    title: str,
    names: Sequence[str],
    reference: np.ndarray,
    methods: Mapping[str, np.ndarray],
    path: Path,
) -> Path:
    """Marginal densities of the first six parameters; below them pairs of the first two.

    Args:
        title: what the posterior is of.
        names: of the parameters, [D], D of 2 or more.
        reference: [n, D].
        methods: draws of each, [m, D].
        path: the PNG.
    """
    count = min(len(names), MOST_MARGINALS)
    columns = max(count, min(1 + len(methods), MOST_MARGINALS))
    rows = -(-(1 + len(methods)) // columns)
    limits = [_limits(reference[:, i]) for i in range(len(names))]
    colours = dict(zip(methods, COLOURS, strict=False))
    step, line = _SIDE + _GAP, _HEAD + _SIDE + _FOOT
    width = 0.1 + max(columns * step, count * step + _LEGEND, _LEAST_WIDTH)
    with style():
        page = Page(
            width, (1 + rows) * line - _HEAD, title,
            "above: marginal densities; below: draws; axes end where the reference's draws do", "",
        )  # fmt: skip
        for i in range(count):
            axes = page.axes(i * step + _LEFT, 0.0, _SIDE, _SIDE)
            _draw_marginal(axes, reference[:, i], methods, i, limits[i], colours)
            axes.set_xlabel(names[i])
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.05), handlelength=1.2)
        panels = {"reference": reference, **methods}
        for number, (name, draws) in enumerate(panels.items()):
            row, column = divmod(number, columns)
            axes = page.axes(column * step + _LEFT, (1 + row) * line, _SIDE, _SIDE)
            axes.scatter(draws[:, 0], draws[:, 1], s=3, linewidths=0, alpha=0.4,
                         color=colours.get(name, FAINT))  # fmt: skip
            axes.set(xlim=limits[0], ylim=limits[1])
            _label_plane(axes, name, names, first=column == 0)
        return page.save(Path(path))


def draw_joint(
    title: str,
    planes: Sequence[tuple[tuple[str, str], Mapping[str, np.ndarray]]],
    path: Path,
) -> Path:
    """Joint densities side by side: a row for each pair of parameters, a panel for each method.

    Args:
        title: what the posterior is of.
        planes: names of the two parameters, and draws of each method, [n, 2]. Axes and colours of
            a row are those of its first method.
        path: the PNG.
    """
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("density", ["white", ACCENT, INK])
    columns = max(len(methods) for _, methods in planes)
    step, line = _SIDE + 0.25, _HEAD + _SIDE + _FOOT
    with style():
        page = Page(
            max(columns * step + 0.4, _LEAST_WIDTH), len(planes) * line, title,
            "joint densities, by histograms; axes and shades of a row are those of its first panel",
            "",
        )  # fmt: skip
        for row, (names, methods) in enumerate(planes):
            first = next(iter(methods.values()))
            limits = [_limits(first[:, i]) for i in range(2)]
            most = np.max(_joint_histogram(first, limits))
            for column, (method, draws) in enumerate(methods.items()):
                place = (column * step + _LEFT, row * line + _HEAD)
                axes = page.axes(*place, _SIDE, _SIDE)
                axes.imshow(
                    _joint_histogram(draws, limits).T, cmap=shades, vmin=0.0, vmax=most,
                    extent=(*limits[0], *limits[1]), origin="lower", aspect="auto",
                )  # fmt: skip
                _label_plane(axes, method, names, first=column == 0)
        return page.save(Path(path))


def _limits(values: np.ndarray) -> Limits:
    """Where all but 1% of draws are, and 15% more on either side."""
    low, high = np.quantile(values, [0.005, 0.995])
    margin = 0.15 * (high - low)
    return float(low - margin), float(high + margin)


def _histogram(values: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Density in each bin, draws beyond the limits counted too; and the bins' edges."""
    counts, edges = np.histogram(values, BINS, limits)
    return counts / (len(values) * np.diff(edges)), edges


def _joint_histogram(draws: np.ndarray, limits: Sequence[Limits]) -> np.ndarray:
    """Share of draws [n, 2] in each cell, [CELLS, CELLS]."""
    counts, _, _ = np.histogram2d(draws[:, 0], draws[:, 1], CELLS, limits)
    return counts / len(draws)


def _draw_marginal(
    axes: "Axes",
    reference: np.ndarray,
    methods: Mapping[str, np.ndarray],
    index: int,
    limits: Limits,
    colours: Mapping[str, str],
) -> None:
    axes.stairs(*_histogram(reference, limits), fill=True, color=RULE, label="reference")
    for name, draws in methods.items():
        axes.stairs(*_histogram(draws[:, index], limits), color=colours[name], lw=1.1, label=name)
    axes.set(xlim=limits, yticks=[])
    axes.spines.left.set_visible(False)
    _few_ticks(axes, y=False)


def _label_plane(axes: "Axes", title: str, names: Sequence[str], first: bool) -> None:
    """A plane of two parameters; the second is named in the first column alone."""
    axes.set(title=title, xlabel=names[0])
    _few_ticks(axes)
    if first:
        axes.set_ylabel(names[1])
    else:
        axes.tick_params(labelleft=False)


def _few_ticks(axes: "Axes", y: bool = True) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(4))
    if y:
        axes.yaxis.set_major_locator(MaxNLocator(5))
