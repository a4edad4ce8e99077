"""Simulation-based calibration: the table and the figure of experiments/calibration.py.

Both are made of what its JSON file holds: the band's `fractions`, `lower` and `upper`, [L + 1]
each, and for each of `parameters` its `ranks` [n], counts of 0 to L draws below the truth; the same
of exact draws in `exact`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avb_jax.files import markdown_table
from avb_jax.reporting.style import ACCENT, INK, RULE, TARGET, Page, style

COLUMNS = ("parameter", "within the band", "share of it", "largest difference", "exact draws'",
           "within it")  # fmt: skip
PER_ROW = 5
_WIDTH, _HEIGHT, _GAP, _LINE = 1.9, 1.5, 0.25, 2.3


def rank_ecdf(ranks: Sequence[int], num_draws: int) -> np.ndarray:
    """The share of ranks [n] that are at most 0, 1, ..., L: [L + 1]."""
    return np.bincount(np.asarray(ranks), minlength=num_draws + 1).cumsum() / len(ranks)


def band_verdict(ranks: Sequence[int], band: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Whether the ECDF of ranks stays within the band, in what share of points, how far it goes.

    `difference` is the largest one from uniform ranks, with its sign.
    """
    fractions, lower, upper = (np.asarray(band[name]) for name in ("fractions", "lower", "upper"))
    ecdf = rank_ecdf(ranks, len(fractions) - 1)
    inside = (ecdf >= lower - 1e-9) & (ecdf <= upper + 1e-9)
    apart = ecdf - fractions
    return {
        "inside": bool(inside.all()),
        "share": float(inside.mean()),
        "difference": float(apart[np.argmax(np.abs(apart))]),
    }


def calibration_table(found: Mapping[str, Any]) -> str:
    """A line for each parameter, in Markdown."""
    rows = []
    for name, of in found["parameters"].items():
        exact = found["exact"][name]
        ours, theirs = ("yes" if some["inside"] else "no" for some in (of, exact))
        share, apart, exact_apart = of["share"], of["difference"], exact["difference"]
        rows.append([name, ours, f"{share:.0%}", f"{apart:+.3f}", f"{exact_apart:+.3f}", theirs])
    return markdown_table(COLUMNS, rows)


def draw_calibration(found: Mapping[str, Any], path: Path) -> Path:
    """Difference of each parameter's ECDF of ranks from the uniform one, and the band."""
    parameters, exact, band = found["parameters"], found["exact"], found["band"]
    fractions, lower, upper = (np.asarray(band[name]) for name in ("fractions", "lower", "upper"))
    most = 1.15 * max(
        np.max(upper - fractions), np.max(fractions - lower),
        *(abs(of["difference"]) for some in (parameters, exact) for of in some.values()),
    )  # fmt: skip
    rows = -(-len(parameters) // PER_ROW)
    with style():
        page = Page(
            0.35 + PER_ROW * (_WIDTH + _GAP), rows * _LINE,
            "Ranks of the truth among posterior draws: ECDF less the uniform one",
            f"grey: 95% of uniform ranks' curves stay wholly within; dotted: exact draws; "
            f"{found['num_simulations']} simulations, {len(fractions) - 1} draws each", "",
        )  # fmt: skip
        for number, (name, of) in enumerate(parameters.items()):
            row, column = divmod(number, PER_ROW)
            place = (0.45 + column * (_WIDTH + _GAP), row * _LINE + 0.3)
            axes = page.axes(*place, _WIDTH, _HEIGHT)
            axes.fill_between(fractions, lower - fractions, upper - fractions, color=RULE, lw=0)
            colour = ACCENT if of["inside"] else TARGET
            theirs, ours = (
                rank_ecdf(some["ranks"], len(fractions) - 1) - fractions
                for some in (exact[name], of)
            )
            axes.plot(fractions, theirs, color=INK, lw=0.9, ls=":")
            axes.plot(fractions, ours, color=colour, lw=1.2)
            axes.set(title=name, xlim=(0.0, 1.0), ylim=(-most, most))
            axes.set_xticks([0.0, 0.5, 1.0], ["0", "½", "1"])
            if row == rows - 1:
                axes.set_xlabel("fraction of ranks")
            if column:
                axes.tick_params(labelleft=False)
        return page.save(Path(path))
