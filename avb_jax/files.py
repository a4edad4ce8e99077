"""Files that are whole or absent, digests of them, and values that any JSON reader understands."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DIGESTS = "digests.json"


def write_atomically(path: str | os.PathLike, content: bytes) -> Path:
    """Writes `content` to `path`, whose folder is made where it is missing.

    A reader, or a process killed at any moment, finds the old file or the new one, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # two may write at once
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_digests(folder: Path) -> None:
    """Writes the SHA-256 of every file below a folder, by relative name, into one more file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    digests = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1))


def fault_of(folder: Path) -> str | None:
    """What is wrong with the files that `write_digests` saw, or None."""
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
        changed = [name for name, digest in digests.items() if _digest(folder / name) != digest]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return f"{changed[0]} is not what was written" if changed else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """`value` with numbers and arrays of any library as Python's; NaN and infinity as None.

    JSON has no word for them, and None comes out as `null`.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    value = np.asarray(value).tolist()
    if isinstance(value, list):
        return plain(value)
    return value if math.isfinite(value) else None


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A line of titles, and one for each row."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
