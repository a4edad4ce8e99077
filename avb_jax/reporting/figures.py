"""The figures of a run, drawn from the files of its work directory."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avb_jax.reporting.images import GREY, image_grid, resize
from avb_jax.reporting.latents import Snapshot, latent_page, posteriors_page
from avb_jax.reporting.metrics import read_metrics
from avb_jax.reporting.style import ACCENT, DPI, FAINT, RULE, TARGET, Page, show_image, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Each metric's title, and its value for a critic that is right.
CURVES = {
    "elbo_estimate": ("ELBO estimate, nats", None),
    "reconstruction": ("reconstruction $E_q[\\log p(x|z)]$, nats", None),
    "kl_estimate": ("estimate of KL(q‖p), nats", None),
    "critic_loss": ("critic loss", None),
    "balance": ("critic's balance $E_q[\\sigma(-s)] - E_r[\\sigma(s)]$", 0.0),
    "reference_mean_ratio": ("critic's normaliser $E_r[\\exp s]$", 1.0),
}
_TILE = 72
_COLUMNS = 8


def draw_figures(workdir: str | os.PathLike) -> list[Path]:
    """Draws the figures that a work directory has the files for, as PNGs into `figures/`.

    From `figures/snapshot.npz`: data.png, reconstructions.png, samples.png, latent.png and
    posteriors.png; from `metrics.jsonl`: learning_curves.png. Each says under it what
    `config.json`, where there is one, tells of the run.

    Returns:
        The files written.

    Raises:
        ValueError: where there is neither a snapshot nor a metrics file, or one is damaged.
    """
    workdir = Path(workdir)
    snapshot_path, metrics_path = workdir / "figures" / "snapshot.npz", workdir / "metrics.jsonl"
    if not snapshot_path.exists() and not metrics_path.exists():
        raise ValueError(f"workdir was {workdir}; it holds no figures/snapshot.npz to draw from")
    caption = _caption(workdir / "config.json")
    with style():
        pages: dict[str, Page] = {}
        if snapshot_path.exists():
            snapshot = _read_snapshot(snapshot_path)
            pages |= _image_pages(snapshot, caption)
            pages["latent"] = latent_page(snapshot, caption)
            pages["posteriors"] = posteriors_page(snapshot, caption)
        if metrics_path.exists():
            pages |= _learning_curves(read_metrics(metrics_path), caption)
        return [page.save(workdir / "figures" / f"{name}.png") for name, page in pages.items()]


def _image_pages(snapshot: Snapshot, caption: str) -> dict[str, Page]:
    data, reconstructions, samples = (
        resize(snapshot[name], _TILE) for name in ("data", "reconstructions", "samples")
    )
    seam = np.full_like(data[:, :2], GREY)
    pairs = np.concatenate([data, seam, reconstructions], axis=1)[: 4 * _COLUMNS]
    below = "above: data; below: pixel means at one draw of q(z|x)"
    return {
        "data": _image_page(data, 4, "Data", "as the model sees them", caption),
        "reconstructions": _image_page(pairs, 8, "Reconstructions", below, caption),
        "samples": _image_page(samples, 4, "Samples", "pixel means at draws of the prior", caption),
    }


def _image_page(images: np.ndarray, gap: int, title: str, subtitle: str, caption: str) -> Page:
    """Images side by side, a pixel of theirs for a pixel of the page."""
    grid = image_grid(images, min(_COLUMNS, len(images)), gap)
    height, width = grid.shape[0] / DPI, grid.shape[1] / DPI
    page = Page(max(width, 4.5), height, title, subtitle, caption)
    show_image(page.axes(0.0, 0.0, width, height), grid)
    return page


def _learning_curves(metrics: dict[str, np.ndarray], caption: str) -> dict[str, Page]:
    names = [name for name in CURVES if np.isfinite(metrics.get(name, np.nan)).any()]
    if not names:
        return {}
    marks = ""
    if "critic_loss" in names:
        marks = "the critic's ELBO estimate is not a bound; dashed: a critic that is right"
    page = Page(11.4, 3.0 * -(-len(names) // 3), "Learning curves", marks, caption)
    for i, name in enumerate(names):
        axes = page.axes(i % 3 * 3.8 + 0.55, i // 3 * 3.0 + 0.3, 3.15, 2.1)
        _curve(axes, metrics["step"], metrics[name], *CURVES[name])
    return {"learning_curves": page}


def _curve(
    axes: "Axes", steps: np.ndarray, values: np.ndarray, title: str, target: float | None
) -> None:
    from matplotlib.ticker import MaxNLocator

    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    window = len(values) // 40
    if window > 1:
        axes.plot(steps, values, color=ACCENT, lw=0.8, alpha=0.4)
        smooth = np.convolve(values, np.full(window, 1.0 / window), mode="valid")
        axes.plot(steps[window // 2 :][: len(smooth)], smooth, color=ACCENT, lw=1.6)
    else:
        axes.plot(steps, values, color=ACCENT, lw=1.6, marker="o", ms=3.0)
    # In a long run the first steps are far off and would flatten all the others.
    low, high = np.quantile(values, [0.02, 0.98] if window > 1 else [0.0, 1.0])
    if target is not None:
        axes.axhline(target, color=TARGET, lw=1.0, ls="--")
        low, high = min(low, target), max(high, target)
    margin = 0.1 * (high - low) or 0.1 * max(abs(high), 1e-3)
    axes.set_ylim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(title)
    axes.set_xlabel("step", color=FAINT)
    axes.grid(axis="y", color=RULE, lw=0.5)


def _read_snapshot(path: Path) -> Snapshot:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"the snapshot {path} is damaged; take it again") from None


def _caption(path: Path) -> str:
    """What config.json tells of the run, in a line; nothing where there is no such file."""
    if not path.exists():
        return ""
    try:
        config = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise ValueError(f"the configuration {path} is damaged; it must be a JSON object") from None
    if "dataset" in config:
        # Of a user's own file the name is enough.
        config["dataset"] = Path(config["dataset"]).name
    named = {
        "dataset": "{}",
        "encoder": "{} encoder",
        "latent_dim": "D = {}",
        "binarization": "binarization {}",
        "seed": "seed {}",
    }
    return "  ·  ".join(text.format(config[name]) for name, text in named.items() if name in config)
