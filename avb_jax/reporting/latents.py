"""Pictures of the latent space: the aggregate posterior, and q(z|x) for a few x."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from avb_jax.reporting.images import image_grid, resize
from avb_jax.reporting.style import ACCENT, INK, PALETTE, RULE, Page, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Snapshot = Mapping[str, np.ndarray]
_PRIOR = "circles: 1, 2 and 3 standard deviations of the prior"
_MOMENTS = "the Gaussian of the same mean and covariance"
HEAD = 0.6  # inches of a panel's picture and text
# Half the width of a panel, in standard deviations of the prior, for a q that is all but a point.
_NARROWEST = 0.01


def latent_page(snapshot: Snapshot, caption: str) -> Page:
    """One draw of q(z|x) for each image: D = 1 a histogram, D = 2 the plane beside its decoded
    grid, else the first two principal components."""
    latents, labels = snapshot["latents"], snapshot.get("labels")
    dim = latents.shape[1]
    title = f"Latent space: one draw of q(z|x) for each of {len(latents):,} images"
    if dim == 1:
        page = Page(6.4, 4.6, title, "line: the density of the prior", caption)
        _line_histogram(page.axes(0.55, 0.0, 4.9, 4.1), latents[:, 0], labels)
        return page
    marks = _PRIOR + ("; right: decoded at quantiles of the prior" if dim == 2 else "")
    page = Page(12.0 if dim == 2 else 6.4, 5.5, title, marks, caption)
    axes = page.axes(0.55, 0.0, 5.0, 5.0)
    if dim == 2:
        plane, names = latents, ["z₁", "z₂"]
        decoded_grid(page.axes(6.95, 0.0, 5.0, 5.0), snapshot["grid"], snapshot["grid_z"])
    else:
        plane, names = _principal_plane(latents)
    scatter_latents(axes, plane, labels)
    prior_plane(axes, plane, names)
    return page


def posteriors_page(snapshot: Snapshot, caption: str) -> Page:
    """Draws of q(z|x) for a few x, each with the Gaussian of the same moments.

    D = 1: histograms; D = 2: all of them in the plane, then each by itself; D > 2: each in its
    own first two principal components.
    """
    draws, images = snapshot["posterior_draws"].astype(float), snapshot["posterior_images"]
    count, dim = draws.shape[1:]
    rows = 1 if count <= 2 else 2
    columns = -(-count // rows)
    side, foot, gutter = 2.25, 0.5, 0.6
    height = rows * (HEAD + side + foot)
    whole = height - HEAD - foot if dim == 2 else 0.0
    left = whole + gutter if dim == 2 else 0.0
    page = Page(
        max(left + columns * (gutter + side), 5.6),
        height,
        f"q(z|x): {len(draws):,} draws for each image",
        f"ellipses: {_MOMENTS}, at 1 and 2 standard deviations" if dim > 1 else f"line: {_MOMENTS}",
        caption,
    )
    if dim == 2:
        _together(page.axes(gutter - 0.05, HEAD, whole, whole), draws)
    for i in range(count):
        x = left + i % columns * (gutter + side) + gutter
        y = i // columns * (HEAD + side + foot)
        label = f"label {snapshot['posterior_labels'][i]}" if "posterior_labels" in snapshot else ""
        axes = image_panel(page, x, y, side, images[i], label)
        _shape(axes, draws[:, i], PALETTE[i % len(PALETTE)])
    return page


def image_panel(
    page: Page, left: float, top: float, side: float, image: np.ndarray, text: str
) -> "Axes":
    """Square axes below a picture [h, w, c] and a text beside it, `HEAD` inches high."""
    show_image(page.axes(left, top + 0.02, HEAD - 0.12, HEAD - 0.12), image)
    axes = page.axes(left, top + HEAD, side, side)
    if text:
        axes.text(HEAD / side, 1.05, text, transform=axes.transAxes)
    return axes


def scatter_latents(
    axes: "Axes", plane: np.ndarray, labels: np.ndarray | None, legend: bool = True
) -> None:
    """Points [n, 2], coloured by their labels where there are some."""
    # In a random order, since a label drawn last would hide the others.
    order = np.random.default_rng(0).permutation(len(plane))
    size = float(np.clip(14_000 / len(plane), 5, 40))
    dots = {"x": plane[order, 0], "y": plane[order, 1], "s": size, "linewidths": 0, "alpha": 0.75}
    if labels is None:
        axes.scatter(**dots, color=ACCENT)
        return
    names, index = np.unique(labels, return_inverse=True)
    if len(names) > len(PALETTE):
        points = axes.scatter(**dots, c=labels[order], cmap="viridis")
        bar = axes.figure.colorbar(points, cax=axes.inset_axes((1.03, 0.2, 0.025, 0.6)))
        bar.set_label("label")
        assert bar.solids is not None
        bar.solids.set_alpha(1.0)
        bar.outline.set_visible(False)
        return
    axes.scatter(**dots, c=np.array(PALETTE)[index[order]])
    for name, colour in zip(names, PALETTE, strict=False):
        axes.scatter([], [], s=40, color=colour, label=str(name))
    if legend:
        _legend(axes)


def _line_histogram(axes: "Axes", z: np.ndarray, labels: np.ndarray | None) -> None:
    names = np.unique([] if labels is None else labels)
    edges = np.linspace(min(z.min(), -3.3), max(z.max(), 3.3), 61)
    if 0 < len(names) <= len(PALETTE):
        groups = [z[labels == name] for name in names]
        colours, texts = PALETTE[: len(names)], [str(name) for name in names]
        axes.hist(groups, edges.tolist(), density=True, stacked=True, color=colours, label=texts)
        _legend(axes)
    else:
        axes.hist(z, edges.tolist(), density=True, color=ACCENT)
    _normal_curve(axes, 0.0, 1.0, edges)


def _normal_curve(axes: "Axes", mean: float, scale: float, edges: np.ndarray) -> None:
    z = np.linspace(edges[0], edges[-1], 400)
    density = np.exp(-0.5 * ((z - mean) / scale) ** 2) / (scale * np.sqrt(2.0 * np.pi))
    axes.plot(z, density, color=INK, lw=1.0)
    axes.set(xlabel="z", ylabel="density", xlim=(edges[0], edges[-1]))


def _legend(axes: "Axes") -> None:
    axes.legend(
        title="label", loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.0, borderpad=0.0
    )


def decoded_grid(axes: "Axes", grid: np.ndarray, grid_z: np.ndarray) -> None:
    """Images [Q, Q, h, w, c] that were decoded at z = (grid_z[column], grid_z[row])."""
    side = len(grid_z)
    # Rows of a picture go down, z₂ goes up.
    tiles = resize(grid[::-1].reshape(-1, *grid.shape[2:]), 64)
    show_image(axes, image_grid(tiles, side, gap=4), extent=(0, side, 0, side), aspect="auto")
    ticks = [0, side // 4, side // 2, 3 * side // 4, side - 1]
    names = [f"{grid_z[i]:.1f}".replace("-", "−") for i in ticks]
    axes.set_xticks([i + 0.5 for i in ticks], names)
    axes.set_yticks([i + 0.5 for i in ticks], names)
    axes.set(xlabel="z₁", ylabel="z₂")


def _together(axes: "Axes", draws: np.ndarray) -> None:
    for i in range(draws.shape[1]):
        colour = PALETTE[i % len(PALETTE)]
        z_1, z_2 = draws[:, i].T
        axes.scatter(z_1, z_2, s=6, linewidths=0, alpha=0.5, color=colour)
    prior_plane(axes, draws.reshape(-1, 2), ["z₁", "z₂"])
    axes.set_title(_PRIOR)


def _shape(axes: "Axes", draws: np.ndarray, colour: str) -> None:
    """Draws [S, D] of one posterior with the Gaussian of their moments."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if draws.shape[1] == 1:
        edges = np.linspace(draws.min() - _NARROWEST, draws.max() + _NARROWEST, 31)
        axes.hist(draws[:, 0], edges.tolist(), density=True, color=colour)
        _normal_curve(axes, draws.mean(), max(draws.std(), 0.1 * _NARROWEST), edges)
        return
    if draws.shape[1] > 2:
        draws = (draws - draws.mean(axis=0)) @ principal_axes(draws)[0]
        axes.set(xlabel="own principal component 1", ylabel="component 2")
    first, second = draws.T
    axes.scatter(first, second, s=6, linewidths=0, alpha=0.45, color=colour)
    values, vectors = np.linalg.eigh(np.cov(draws.T))
    angles = np.linspace(0.0, 2.0 * np.pi, 121)
    circle = np.sqrt(np.clip(values, 0.0, None))[:, None] * np.stack(
        [np.cos(angles), np.sin(angles)]
    )
    ellipses = [draws.mean(axis=0)[:, None] + radius * vectors @ circle for radius in (1, 2)]
    for ellipse in ellipses:
        axes.plot(*ellipse, color=INK, lw=0.9)
    seen = np.concatenate([np.quantile(draws, [0.002, 0.998], axis=0), ellipses[-1].T])
    low, high = seen.min(axis=0), seen.max(axis=0)
    square(axes, (low + high) / 2, max(0.54 * np.max(high - low), _NARROWEST))


def prior_plane(axes: "Axes", plane: np.ndarray, names: list[str]) -> None:
    """Square axes around these points, with circles of the prior behind them."""
    from matplotlib.patches import Circle

    for radius in (1, 2, 3):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=RULE, lw=1.0, zorder=0))
    square(axes, np.zeros(2), max(3.3, 1.05 * np.quantile(np.abs(plane), 0.999)))
    axes.set(xlabel=names[0], ylabel=names[1])


def square(axes: "Axes", centre: np.ndarray, half: float) -> None:
    """Shows as much on each side of a centre [2]."""
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half))


def _principal_plane(latents: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Latents in two principal directions, not centred: the prior stays around the origin."""
    directions, shares = principal_axes(latents)
    names = [
        f"principal component {i} ({share:.0%} of the variance)"
        for i, share in enumerate(shares, start=1)
    ]
    return latents @ directions, names


def principal_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal directions of points [n, D] as [D, 2], their variance's shares."""
    _, scales, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    return directions[:2].T, scales[:2] ** 2 / max(np.sum(scales**2), 1e-30)
