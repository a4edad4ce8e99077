"""Where the exact p(z|x) has two modes, D = 2: the images, both modes, and what q(z|x) does."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.reporting.images import to_uint8
from avb_jax.reporting.latents import HEAD, Snapshot, image_panel, square
from avb_jax.reporting.style import INK, PALETTE, Page
from avb_jax.types import Array, Key, Tree

NUM_SHOWN = 4
NUM_DRAWS = 1000
LIMIT, POINTS = 3.5, 256  # of the grid: half its width, and its points a side
LEAST = 0.05  # mass of a second mode that counts as one
_BLOCK = 256
_NEAREST = 0.15  # half the width of a panel at least, in standard deviations of the prior


def find_modes(
    model: Any, params: Tree, key: Key, images: np.ndarray
) -> dict[str, np.ndarray] | None:
    """Of images [B, h, w, c], those whose p(z|x) has the heaviest second modes; None without any.

    Modes count where the density halfway between them is low.

    Returns:
        `modes_index` [K]: which images, K at most 4, and `modes_images` [K, h, w, c], themselves as
        uint8; `modes_density` [K, Q, Q]: p(z|x) on a grid
        of z = (`modes_axis`[row], `modes_axis`[column]), its maximum being 1; `modes_masses` and
        `modes_z`, [K, 2] and [K, 2, 2], of both modes: the mass that is uphill to each, and where
        it is; `modes_draws` [1000, K, 2] of q(z|x).

    Raises:
        ValueError: if the latent dimension is not 2.
    """
    if model.latent_dim != 2:
        raise ValueError(f"latent_dim was {model.latent_dim}; allowed is 2")
    axis = np.linspace(-LIMIT, LIMIT, POINTS)
    log_density = np.asarray(_on_grid(model, params, images, jnp.asarray(axis)))
    found = [two_modes(one) for one in log_density]
    second = np.array(
        [
            masses[1] * _apart(one, cells)
            for one, (masses, cells) in zip(log_density, found, strict=True)
        ]
    )
    _, first = np.unique(images, axis=0, return_index=True)  # the same image is not shown twice
    index = first[np.argsort(-second[first])][:NUM_SHOWN]
    index = index[second[index] >= LEAST]
    if not len(index):
        return None
    return {
        "modes_index": index,
        "modes_images": to_uint8(images[index]),
        "modes_axis": axis,
        "modes_density": np.exp(log_density[index]).astype(np.float16),
        "modes_masses": np.stack([found[i][0] for i in index]),
        "modes_z": np.stack([axis[found[i][1]] for i in index]),
        "modes_draws": np.asarray(model.sample_posterior(params, key, images[index], NUM_DRAWS)),
    }


@functools.partial(jax.jit, static_argnums=0)
def _on_grid(model: Any, params: Tree, images: Array, axis: Array) -> Array:
    """log p(z|x) less its maximum, [B, Q, Q]."""
    axis = axis.astype(images.dtype)
    z = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, _BLOCK, 2)
    log_joint = jax.lax.map(lambda block: model.survey(params, images, block), z)
    log_joint = log_joint.reshape(-1, len(images)).T
    log_joint = log_joint - jnp.max(log_joint, axis=-1, keepdims=True)
    return log_joint.reshape(-1, len(axis), len(axis))


def two_modes(log_density: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two heaviest modes on a grid [Q, Q]: their shares of the mass [2], their cells [2, 2].

    A cell's mass is that of the maximum to which steps to the highest of eight neighbours lead.

    Examples:
        >>> x, y = np.meshgrid(np.linspace(-3, 3, 61), np.linspace(-3, 3, 61), indexing="ij")
        >>> left, right = (np.exp(-8 * ((x - m) ** 2 + y**2)) for m in (-1.5, 1.5))
        >>> masses, cells = two_modes(np.log(0.25 * left + 0.75 * right))
        >>> masses.round(3), cells.tolist()
        (array([0.75, 0.25]), [[45, 30], [15, 30]])
    """
    rows, columns = log_density.shape
    padded = np.pad(log_density, 1, constant_values=-np.inf)
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    around = np.stack([padded[1 + i : 1 + i + rows, 1 + j : 1 + j + columns] for i, j in steps])
    uphill = np.array([i * columns + j for i, j in steps])[np.argmax(around, axis=0)].ravel()
    to = np.arange(rows * columns) + uphill
    while not np.array_equal(further := to[to], to):
        to = further
    mass = np.bincount(to, np.exp(log_density - log_density.max()).ravel(), rows * columns)
    heaviest = np.argsort(-mass)[:2]
    return mass[heaviest] / mass.sum(), np.stack(np.unravel_index(heaviest, (rows, columns)), -1)


def _apart(log_density: np.ndarray, cells: np.ndarray) -> bool:
    """Whether the density halfway between two modes is less than half that of the lower one."""
    middle = tuple(cells.mean(axis=0).round().astype(int))
    return bool(log_density[middle] < min(log_density[tuple(c)] for c in cells) - np.log(2.0))


def modes_page(snapshot: Snapshot, caption: str) -> Page:
    """Each image's exact posterior as contours, and draws of q(z|x)."""
    count, side, gutter = len(snapshot["modes_images"]), 2.6, 0.65
    page = Page(
        max(count * (gutter + side), 5.6),
        HEAD + side + 0.5,
        "Posteriors with two modes",
        f"lines: p(z|x) at 1%, 10% and 50% of its maximum; dots: {NUM_DRAWS:,} draws of q(z|x)",
        caption,
    )
    axis = snapshot["modes_axis"]
    for i, image in enumerate(snapshot["modes_images"]):
        masses = " and ".join(f"{mass:.0%}" for mass in snapshot["modes_masses"][i])
        axes = image_panel(page, i * (gutter + side) + gutter, 0.0, side, image, masses)
        z_1, z_2 = snapshot["modes_draws"][:, i].T
        axes.scatter(z_1, z_2, s=6, linewidths=0, alpha=0.35, color=PALETTE[i % len(PALETTE)])
        density = snapshot["modes_density"][i].astype(float).T
        axes.contour(axis, axis, density, [0.01, 0.1, 0.5], colors=INK, linewidths=0.9)
        low, high = (f(snapshot["modes_z"][i], axis=0) for f in (np.min, np.max))
        square(axes, (low + high) / 2, max(0.8 * np.max(high - low), _NEAREST))
        axes.set(xlabel="z₁", ylabel="z₂")
    return page
