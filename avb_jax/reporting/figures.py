"""The figures of a run, drawn from the files of its work directory."""

import json
import os
from pathlib import Path

import numpy as np

from avb_jax.reporting.curves import Metrics, draw_curve, recorded
from avb_jax.reporting.images import GREY, image_grid, resize
from avb_jax.reporting.latents import Snapshot, latent_page, posteriors_page
from avb_jax.reporting.metrics import read_metrics
from avb_jax.reporting.modes import modes_page
from avb_jax.reporting.snapshot import read_snapshot
from avb_jax.reporting.style import DPI, Page, show_image, style

_TILE = 72
_COLUMNS = 8


def draw_figures(workdir: str | os.PathLike) -> list[Path]:
    """Draws the figures that a work directory has the files for, as PNGs into `figures/`.

    From `figures/snapshot.npz`: data.png, reconstructions.png, samples.png, interpolations.png,
    latent.png and posteriors.png, and modes.png where D = 2 and a posterior has two; from
    `metrics.jsonl`: learning_curves.png. Each says under it what `config.json`, where there is one,
    tells of the run.

    Returns:
        The files written.

    Raises:
        ValueError: where there is neither a snapshot nor a metrics file, or one is damaged.
    """
    workdir = Path(workdir)
    snapshot_path, metrics_path = workdir / "figures" / "snapshot.npz", workdir / "metrics.jsonl"
    if not snapshot_path.exists() and not metrics_path.exists():
        raise ValueError(f"workdir was {workdir}; it holds no figures/snapshot.npz to draw from")
    caption = caption_of(workdir / "config.json")
    with style():
        pages: dict[str, Page] = {}
        if snapshot_path.exists():
            snapshot = read_snapshot(snapshot_path)
            pages |= _image_pages(snapshot, caption)
            pages["latent"] = latent_page(snapshot, caption)
            pages["posteriors"] = posteriors_page(snapshot, caption)
            if "modes_index" in snapshot:
                pages["modes"] = modes_page(snapshot, caption)
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
    pages = {
        "data": _image_page(data, 4, "Data", "as the model sees them", caption),
        "reconstructions": _image_page(pairs, 8, "Reconstructions", below, caption),
        "samples": _image_page(samples, 4, "Samples", "pixel means at draws of the prior", caption),
    }
    if "interpolations" in snapshot:
        paths = snapshot["interpolations"]
        paths = resize(paths.reshape(-1, *paths.shape[2:]), _TILE)
        between = "pixel means along lines between draws of q(z|x) for two images, left and right"
        pages["interpolations"] = _image_page(paths, 4, "Interpolations", between, caption)
    return pages


def _image_page(images: np.ndarray, gap: int, title: str, subtitle: str, caption: str) -> Page:
    """Images side by side, a pixel of theirs for a pixel of the page."""
    grid = image_grid(images, min(_COLUMNS, len(images)), gap)
    height, width = grid.shape[0] / DPI, grid.shape[1] / DPI
    page = Page(max(width, 4.5), height, title, subtitle, caption)
    show_image(page.axes(0.0, 0.0, width, height), grid)
    return page


def _learning_curves(metrics: Metrics, caption: str) -> dict[str, Page]:
    names = recorded({"": metrics})
    if not names:
        return {}
    marks = ""
    if "critic_loss" in names:
        marks = "the critic's ELBO estimate is not a bound; dashed: a critic that is right"
    page = Page(11.4, 3.0 * -(-len(names) // 3), "Learning curves", marks, caption)
    for i, name in enumerate(names):
        axes = page.axes(i % 3 * 3.8 + 0.55, i // 3 * 3.0 + 0.3, 3.15, 2.1)
        draw_curve(axes, name, {"": metrics})
    return {"learning_curves": page}


def caption_of(path: Path) -> str:
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
