"""Data sets as uint8 arrays in memory, their binarisation, and shuffled batches."""

from avb_jax.data.batches import Batches, Binarized, binarize
from avb_jax.data.prepared import cache_directory
from avb_jax.data.sources import Dataset, Split, load, validate_images

__all__ = [
    "Batches",
    "Binarized",
    "Dataset",
    "Split",
    "binarize",
    "cache_directory",
    "load",
    "validate_images",
]
