"""Metrics and figures for TensorBoard, by tensorboardX: an extra that needs no TensorFlow."""

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np


class TensorBoardWriter:
    """Writes event files into `directory`, as far as the steps of this process go.

    What it writes first makes TensorBoard forget what a run that was killed had written from that
    step on. Before it, there is no file.

    Args:
        directory: of the event files, made with those above it.

    Raises:
        ValueError: where tensorboardX is not installed.
    """

    def __init__(self, directory: str | os.PathLike):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ValueError(
                "tensorboard was given, and tensorboardX is not installed; "
                "pip install -e '.[tensorboard]' brings it"
            ) from None
        self._open = partial(SummaryWriter, os.fspath(directory))
        self._writer: SummaryWriter | None = None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds each metric as a scalar."""
        if self._writer is None:
            # Its own name for a file ends in the second alone, and another would take its place.
            self._writer = self._open(purge_step=step, filename_suffix=f".{time.time_ns()}")
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def write_figures(self, step: int, paths: Sequence[Path]) -> None:
        """Adds PNG files as images under their names.

        Nothing where no metrics were written before: the run was complete, and they are there.
        """
        from PIL import Image

        if self._writer is None:
            return
        for path in paths:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            self._writer.add_image(path.stem, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is waiting, and closes the file."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
