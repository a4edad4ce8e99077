"""What the pictures show, computed from the model once and kept in a file."""

import functools
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avb_jax.files import write_atomically
from avb_jax.reporting.images import check_images, to_uint8
from avb_jax.reporting.modes import find_modes
from avb_jax.types import Array, Key, Tree

NUM_SHOWN = 64
NUM_POSTERIORS = 6
NUM_DRAWS = 1000
NUM_TRIED = 256  # images among which those with the heaviest second modes are found
GRID_QUANTILES = np.linspace(0.03, 0.97, 16, dtype=np.float32)
NUM_PATHS, PATH_LENGTH = 8, 8  # of interpolations
_BLOCK = 64  # images encoded or decoded at a time, which bounds the memory
_DRAWS_BLOCK = 50


def take_snapshot(
    model: Any,
    params: Tree,
    key: Key,
    images: np.ndarray,
    labels: np.ndarray | None,
    path: str | os.PathLike,
) -> None:
    """Writes everything that the figures show of a model to an npz file, atomically.

    The file holds, with images as uint8 pixel means: `data`, `reconstructions` (from one draw of
    q(z|x)) and `samples` (from the prior), [up to 64, h, w, c]; `interpolations` [up to 8, 8, h, w,
    c], along straight lines between draws of q(z|x) for two images of `data`; `latents` [B, D], one
    draw of q(z|x) for each image, and `labels` [B]; for up to six x, of different labels where
    there are labels, `posterior_images` [K, h, w, c], `posterior_draws` [1000, K, D] and
    `posterior_labels` [K]; for D = 2 `grid` [16, 16, h, w, c], decoded at z = (`grid_z`[column],
    `grid_z`[row]), and what `find_modes` finds among 256 images. But for those, the choices of
    images depend on their number and labels alone.

    Args:
        model: an `avb.Model`; hashable, since it is compiled once for all its snapshots.
        params: its parameters.
        key: a JAX random key.
        images: [B, h, w, c] float32 in [0, 1], as the model sees them.
        labels: [B] integers, or None.
        path: the file, made with its folder where it is missing.

    Raises:
        ValueError: where images or labels have another shape, or the latents are not finite.
    """
    check_images(images)
    if labels is not None and np.shape(labels) != images.shape[:1]:
        raise ValueError(
            f"labels was of shape {np.shape(labels)}; it must be {images.shape[:1]}, one an image"
        )
    # In a fixed random order, since the rows of a data set may be grouped by label.
    order = np.random.default_rng(0).permutation(len(images))
    shown = order[:NUM_SHOWN]
    chosen = _choose(order, labels)
    computed = jax.device_get(
        _compute(model, params, key, *jax.device_put((images, shown, images[chosen])))
    )
    for name in ("latents", "posterior_draws"):
        if not np.isfinite(computed[name]).all():
            raise ValueError(f"params give {name} that are not finite; there is nothing to show")
    for name in computed.keys() & {"reconstructions", "samples", "interpolations", "grid"}:
        computed[name] = to_uint8(computed[name])
    snapshot = {
        **computed,
        "data": to_uint8(images[shown]),
        "posterior_images": to_uint8(images[chosen]),
    }
    if model.latent_dim == 2:
        tried = images[order[:NUM_TRIED]]
        snapshot |= find_modes(model, params, jax.random.fold_in(key, 1), tried) or {}
    if labels is not None:
        snapshot |= {"labels": labels, "posterior_labels": np.asarray(labels)[chosen]}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **snapshot)
    write_atomically(path, buffer.getvalue())


def read_snapshot(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """What `take_snapshot` wrote.

    Raises:
        ValueError: where the file is missing or damaged.
    """
    try:
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"the snapshot {path} is damaged; take it again") from None


@functools.partial(jax.jit, static_argnums=0)
def _compute(
    model: Any, params: Tree, key: Key, images: Array, shown: Array, chosen_images: Array
) -> dict[str, Array]:
    latents_key, samples_key, draws_key = jax.random.split(key, 3)
    decode = functools.partial(_decode, model, params)
    latents = _encode(model, params, latents_key, images)
    prior = jax.random.normal(samples_key, (NUM_SHOWN, model.latent_dim), latents.dtype)
    draws = jax.lax.map(
        lambda k: model.sample_posterior(params, k, chosen_images, _DRAWS_BLOCK),
        jax.random.split(draws_key, NUM_DRAWS // _DRAWS_BLOCK),
    )
    computed = {
        "latents": latents,
        "reconstructions": decode(latents[shown]),
        "samples": decode(prior),
        "posterior_draws": draws.reshape(NUM_DRAWS, *draws.shape[2:]),
    }
    if ends := min(len(shown) // 2, NUM_PATHS):
        computed["interpolations"] = _paths(decode, latents[shown[: 2 * ends]])
    if model.latent_dim == 2:
        grid_z = jax.scipy.special.ndtri(jnp.asarray(GRID_QUANTILES, latents.dtype))
        second, first = jnp.meshgrid(grid_z, grid_z, indexing="ij")
        grid = decode(jnp.stack([first, second], axis=-1).reshape(-1, 2))
        computed |= {"grid": grid.reshape(len(grid_z), -1, *grid.shape[1:]), "grid_z": grid_z}
    return computed


def _paths(decode: Callable[[Array], Array], ends: Array) -> Array:
    """Pixel means between each two of these z [2 P, D], both ends among them: [P, 8, h, w, c]."""
    start, end = ends[::2, None], ends[1::2, None]
    share = jnp.linspace(0.0, 1.0, PATH_LENGTH, dtype=ends.dtype)[None, :, None]
    z = start + share * (end - start)
    means = decode(z.reshape(-1, z.shape[-1]))
    return means.reshape(*z.shape[:2], *means.shape[1:])


def _encode(model: Any, params: Tree, key: Key, images: Array) -> Array:
    """One draw of q(z|x) for each image, [B, D]."""
    blocks = _blocks(images)
    keys = jax.random.split(key, len(blocks))
    z = jax.lax.map(lambda kx: model.sample_posterior(params, kx[0], kx[1], 1)[0], (keys, blocks))
    return z.reshape(-1, z.shape[-1])[: len(images)]


def _decode(model: Any, params: Tree, z: Array) -> Array:
    """Pixel means at z [B, D]: [B, h, w, c]."""
    means = jax.lax.map(lambda block: model.decode_mean(params, block[None])[0], _blocks(z))
    return means.reshape(-1, *means.shape[2:])[: len(z)]


def _blocks(rows: Array) -> Array:
    """[B, ...] as [blocks, rows of a block, ...], filled up with the first rows again."""
    size = min(_BLOCK, len(rows))
    count = -(-len(rows) // size)
    return jnp.resize(rows, (count * size, *rows.shape[1:])).reshape(count, size, *rows.shape[1:])


def _choose(order: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """The images whose posteriors are shown: the first of each of up to six labels."""
    if labels is None:
        return order[:NUM_POSTERIORS]
    _, first = np.unique(np.asarray(labels), return_index=True)
    spread = np.linspace(0, len(first) - 1, min(NUM_POSTERIORS, len(first)))
    return first[spread.round().astype(int)]
