"""Data sets as uint8 arrays, in memory or streamed, their binarisation, and shuffled batches."""

from avb_jax.data.batches import Batches, Binarized, binarize
from avb_jax.data.prepared import cache_directory
from avb_jax.data.sources import Dataset, Split, load, load_for, validate_images
from avb_jax.data.streams import Stream, read_ahead

__all__ = [
    "Batches",
    "Binarized",
    "Dataset",
    "Split",
    "Stream",
    "binarize",
    "cache_directory",
    "load",
    "load_for",
    "read_ahead",
    "validate_images",
]
