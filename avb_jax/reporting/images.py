"""Images side by side, pixel for pixel."""

import io
import os
from pathlib import Path

import numpy as np

from avb_jax.files import write_atomically

# Between images: neither the paper's white nor the black that most of them are made of.
GREY = 190


def image_grid(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Lays images out in rows, `gap` grey pixels between them.

    Args:
        images: [B, h, w, c], uint8, or floats in [0, 1].
        columns: the images in a row; the last row is filled up with white.
        gap: pixels between neighbours.

    Returns:
        [H, W, c] of the same dtype.

    Raises:
        ValueError: where images has another shape, or columns is below 1.
    """
    check_images(images)
    if columns < 1:
        raise ValueError(f"columns was {columns}; it must be at least 1")
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    white, grey = (255, GREY) if images.dtype == np.uint8 else (1.0, GREY / 255.0)
    tiles = np.full((rows * columns, height + gap, width + gap, channels), grey, images.dtype)
    tiles[:, :height, :width] = white
    tiles[:count, :height, :width] = images
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2)
    grid = tiles.reshape(rows * (height + gap), columns * (width + gap), channels)
    return grid[: grid.shape[0] - gap, : grid.shape[1] - gap]


def save_png(path: str | os.PathLike, image: np.ndarray) -> Path:
    """Writes one image to a PNG file, atomically, pixel for pixel.

    Args:
        path: the file, made with its folder where it is missing.
        image: as `encode_png` takes it.

    Raises:
        ValueError: where image has another shape.
    """
    return write_atomically(path, encode_png(image))


def encode_png(image: np.ndarray) -> bytes:
    """One image as the bytes of a PNG file, pixel for pixel.

    Args:
        image: [H, W, c], c of 1 or 3, uint8, or floats in [0, 1] (clipped).

    Raises:
        ValueError: where image has another shape.
    """
    from PIL import Image

    check_images(image[None])
    pixels = to_uint8(image)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "png")
    return buffer.getvalue()


def resize(images: np.ndarray, side: int) -> np.ndarray:
    """[B, h, w, c] by a whole factor, so that the longer side is about `side` pixels.

    Larger images show each pixel as a square of one colour, smaller ones the mean of a square.
    """
    longest = max(images.shape[1:3])
    if longest <= side:
        factor = max(round(side / longest), 1)
        return images.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, channels = images.shape
    factor = min(-(-longest // side), height, width)
    height, width = height // factor, width // factor
    blocks = images[:, : height * factor, : width * factor].reshape(
        count, height, factor, width, factor, channels
    )
    return blocks.mean(axis=(2, 4)).astype(images.dtype)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Floats in [0, 1], clipped, as uint8 of the same shape; uint8 as it is."""
    if images.dtype == np.uint8:
        return images
    return np.round(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)


def check_images(images: np.ndarray) -> None:
    """Raises a ValueError unless images is [B, h, w, c], B at least 1, c of 1 or 3."""
    if np.ndim(images) != 4 or 0 in images.shape or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images was of shape {np.shape(images)}; it must be [n, height, width, channels],"
            " n at least 1 and 1 or 3 channels"
        )
