"""The metrics of a run: one JSON object a line, appended while it trains."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from avb_jax.files import plain, write_atomically


class MetricsWriter:
    """Appends one JSON object a line to `path`, each handed to the system before `write` returns.

    A run that was killed may have written lines of steps that its last checkpoint does not
    know. Opening the file at that checkpoint's `step` drops the lines of later steps, which the
    resumed run writes again, and a last line that was cut short.

    Args:
        path: the file, made with its folder where it is missing.
        step: the step that the run continues from; 0 for a new one.

    Raises:
        ValueError: where a line other than the last cannot be read.
    """

    def __init__(self, path: str | os.PathLike, step: int = 0):
        path = Path(path)
        lines = _read_lines(path) if path.exists() else []
        kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= step]
        write_atomically(path, "".join(kept).encode())
        self._file = open(path, "a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends `values`, scalars of any library, under `step`; NaN and infinity as null.

        Raises:
            ValueError: where a value is not a scalar.
        """
        record: dict[str, Any] = {"step": int(step)}
        for name, value in values.items():
            if np.shape(value):
                raise ValueError(
                    f"the metric {name!r} was of shape {np.shape(value)}; it must be a scalar"
                )
            record[name] = plain(float(value))
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError:
            with suppress(OSError):  # what could not be written now cannot be at the end
                self._file.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a metrics file into columns.

    Returns:
        `step`, int64 [lines], and every other name that occurs, float64 [lines], with NaN on the
        lines that lack it. A last line that is still being written is left out.

    Raises:
        ValueError: where there is no such file, or a line other than the last cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"the metrics file {path} does not exist")
    lines = _read_lines(path)
    columns = {"step": np.array([line["step"] for line in lines], np.int64)}
    for name in dict.fromkeys(name for line in lines for name in line if name != "step"):
        # None becomes NaN here, as does a name that a line lacks.
        columns[name] = np.array([line.get(name) for line in lines], np.float64)
    return columns


def _read_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["step"] = int(record["step"])
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise ValueError(
                f"line {number} of the metrics file {path} is damaged; it must be a JSON object"
                " with a step"
            ) from None
        records.append(record)
    return records
