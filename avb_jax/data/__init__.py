"""Data sets as uint8 arrays in memory, their binarisation, and shuffled batches."""

from avb_jax.data.batches import BINARIZATIONS, Batches, binarize
from avb_jax.data.sources import NAMES, Dataset, Split, load, validate_images

__all__ = [
    "BINARIZATIONS",
    "NAMES",
    "Batches",
    "Dataset",
    "Split",
    "binarize",
    "load",
    "validate_images",
]
