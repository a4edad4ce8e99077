"""Latent traversals: what changes in the image as each latent moves over the prior."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from avb_jax.reporting.figures import caption_of
from avb_jax.reporting.images import image_grid, resize
from avb_jax.reporting.latents import decoded_grid
from avb_jax.reporting.snapshot import GRID_QUANTILES, read_snapshot
from avb_jax.reporting.style import DPI, Page, show_image, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAVERSALS = "_traversals.png"  # of the picture, after the path of the samples
_TILE, _GAP, _TICKS = 48, 4, 6


def traversal_points(centre: np.ndarray) -> np.ndarray:
    """Where to decode: Q quantiles of the prior, 3% to 97%, for each latent in turn.

    Args:
        centre: [D], where the latents that do not move stay.

    Returns:
        [D, Q, D] float32: in row d latent d moves; for D = 2 [Q, Q, 2], the whole plane, z₁ along
        the columns and z₂ along the rows.
    """
    levels = np.asarray(ndtri(jnp.asarray(GRID_QUANTILES)))
    dim = len(centre)
    if dim == 2:
        return np.stack(np.meshgrid(levels, levels), axis=-1)
    z = np.tile(np.asarray(centre, np.float32), (dim, len(levels), 1))
    z[np.arange(dim), :, np.arange(dim)] = levels
    return z


def traversal_centre(workdir: str | os.PathLike, dim: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The posterior mean [D] of the first test image of the run's snapshot, and that image.

    0 and None where there is no snapshot, or it is of another D.
    """
    path = Path(workdir) / "figures" / "snapshot.npz"
    if path.exists():
        snapshot = read_snapshot(path)
        mean = snapshot["posterior_draws"][:, 0].mean(axis=0)
        if mean.shape == (dim,):
            return mean, snapshot["posterior_images"][0]
    return np.zeros(dim, np.float32), None


def draw_traversals(
    images: np.ndarray, z: np.ndarray, test_image: np.ndarray | None, workdir: Path, path: Path
) -> Path:
    """Draws what is decoded at `traversal_points` as a PNG.

    Args:
        images: pixel means, [rows, Q, h, w, c].
        z: [rows, Q, D].
        test_image: [h, w, c], at whose posterior mean the other latents stay; None: they are 0.
        workdir: of the run, whose configuration the caption tells.
        path: of the picture.
    """
    rows, columns, dim = z.shape
    step = (_TILE + _GAP) / DPI
    stay = "0" if test_image is None else "the posterior mean of the test image above"
    subtitle = "quantiles of the prior, 3% to 97%"
    if dim > 2:
        subtitle += f"; the other latents at {stay}"
    with style():
        page = Page(
            max(columns * step + 0.6, 6.5),
            rows * step + 0.6,
            "Latent traversals: pixel means as each latent moves",
            subtitle,
            caption_of(workdir / "config.json"),
        )
        axes = page.axes(0.5, 0.1, columns * step, rows * step)
        if dim == 2:
            decoded_grid(axes, images, z[0, :, 0])
        else:
            _draw_rows(axes, images, z[0, :, 0])
            if test_image is not None:
                show_image(page.axes(columns * step + 0.1, -0.65, 0.4, 0.4), test_image)
        return page.save(path)


def _draw_rows(axes: "Axes", images: np.ndarray, levels: np.ndarray) -> None:
    rows, columns = images.shape[:2]
    tiles = resize(images.reshape(-1, *images.shape[2:]), _TILE)
    show_image(axes, image_grid(tiles, columns, _GAP), extent=(0, columns, 0, rows), aspect="auto")
    ticks = np.linspace(0, columns - 1, _TICKS).round().astype(int)
    axes.set_xticks(ticks + 0.5, [f"{levels[i]:.1f}".replace("-", "−") for i in ticks])
    axes.set_yticks(rows - np.arange(rows) - 0.5, [f"$z_{{{d + 1}}}$" for d in range(rows)])
    axes.set_xlabel("the latent that moves")
