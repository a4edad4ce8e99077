"""How metrics moved while a run trained: of one run, or of several in the same axes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from avb_jax.reporting.style import FAINT, PALETTE, RULE, TARGET, Page, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metrics = Mapping[str, np.ndarray]  # as `read_metrics` gives them

# Each metric's title, and its value for a critic that is right.
CURVES = {
    "elbo_estimate": ("ELBO estimate, nats", None),
    "reconstruction": ("reconstruction $E_q[\\log p(x|z)]$, nats", None),
    "kl_estimate": ("estimate of KL(q‖p), nats", None),
    "critic_loss": ("critic loss", None),
    "balance": ("critic's balance $E_q[\\sigma(-s)] - E_r[\\sigma(s)]$", 0.0),
    "reference_mean_ratio": ("critic's normaliser $E_r[\\exp s]$", 1.0),
}
_WIDTH, _HEIGHT = 3.6, 2.1


def recorded(runs: Mapping[str, Metrics]) -> list[str]:
    """Those of `CURVES` of which some run has a finite value."""
    return [
        name
        for name in CURVES
        if any(np.isfinite(metrics.get(name, np.nan)).any() for metrics in runs.values())
    ]


def curve_pages(runs: Mapping[str, Metrics]) -> dict[str, Page]:
    """A page for each metric that was recorded, a colour of the palette for each run, in order."""
    pages = {}
    with style():
        for name in recorded(runs):
            page = pages[name] = Page(_WIDTH + 0.65, _HEIGHT + 0.5, "", "", "")
            draw_curve(page.axes(0.55, 0.2, _WIDTH, _HEIGHT), name, runs)
    return pages


def draw_curve(axes: "Axes", name: str, runs: Mapping[str, Metrics]) -> None:
    """Draws one metric of each run, with its running mean, and what a right critic has."""
    from matplotlib.ticker import MaxNLocator

    title, target = CURVES[name]
    ranges = [] if target is None else [(target, target)]
    for index, metrics in enumerate(runs.values()):
        finite = np.isfinite(metrics.get(name, np.nan))
        if finite.any():
            colour = PALETTE[index % len(PALETTE)]
            ranges.append(draw_line(axes, metrics["step"][finite], metrics[name][finite], colour))
    if target is not None:
        axes.axhline(target, color=TARGET, lw=1.0, ls="--")
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    margin = 0.1 * (high - low) or 0.1 * max(abs(high), 1e-3)
    axes.set_ylim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(title)
    axes.set_xlabel("step", color=FAINT)
    axes.grid(axis="y", color=RULE, lw=0.5)


def draw_line(axes: "Axes", at: np.ndarray, values: np.ndarray, colour: str) -> tuple[float, float]:
    """Draws one run's values with their running mean, and gives the range that should be seen."""
    window = len(values) // 40
    if window <= 1:
        axes.plot(at, values, color=colour, lw=1.6, marker="" if window else "o", ms=3.0)
        return float(values.min()), float(values.max())
    axes.plot(at, values, color=colour, lw=0.8, alpha=0.4)
    smooth = np.convolve(values, np.full(window, 1.0 / window), mode="valid")
    axes.plot(at[window // 2 :][: len(smooth)], smooth, color=colour, lw=1.6)
    # In a long run the first steps are far off and would flatten all the others.
    low, high = np.quantile(values, [0.02, 0.98])
    return float(low), float(high)
