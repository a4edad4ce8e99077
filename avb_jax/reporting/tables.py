"""The likelihoods of a run as a file and as a table that says which way each bound goes."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avb_jax.reporting.files import plain, write_atomically

KINDS = {
    "lower bound": ">= (lower bound)",
    "upper bound": "<= (upper bound)",
    "estimate": "~  (estimate)",
    "exact": "=  (exact)",
}
NOT_A_BOUND, NOT_OF_LOG_P = "not a bound", "not of log p(x)"


def write_evaluation(path: str | os.PathLike, entries: Sequence[Mapping[str, Any]]) -> None:
    """Writes evaluation entries as JSON, atomically; NaN and infinity as null.

    Args:
        path: the file, made with its folder where it is missing.
        entries: each with `name`, `kind` ("lower bound", "upper bound", "estimate" or "exact"),
            `value` and `stderr` in nats per example, `n` examples, and whatever else tells how
            it was measured, such as `effective_sample_size` and `binarization`.

    Raises:
        ValueError: where an entry lacks a name or a value, or is of an unknown kind.
    """
    records = [plain(dict(entry)) for entry in entries]
    for record in records:
        _check(record, "entries")
    write_atomically(path, (json.dumps(records, indent=2) + "\n").encode())


def read_evaluation(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads what `write_evaluation` wrote; a null value or standard error comes back as NaN.

    Raises:
        ValueError: where the file is missing, is not JSON, or holds an entry that lacks a name
            or a value or is of an unknown kind.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"the evaluation file {path} does not exist")
    try:
        records = json.loads(path.read_bytes())
    except ValueError:
        raise ValueError(f"the evaluation file {path} is damaged; it must be JSON") from None
    if not isinstance(records, list):
        raise ValueError(f"the evaluation file {path} must hold a list of entries")
    for record in records:
        _check(record, str(path))
        for field in ("value", "stderr"):
            if field in record and record[field] is None:
                record[field] = math.nan
    return records


def evaluation_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """One row for each entry, aligned plain text.

    The kind says what the quantity is of the value: at least it (`>=`), at most it (`<=`), it
    (`=`), or only near it (`~`), and then the remark says that it is not a bound. A lower bound of
    the ELBO is one of log p(x) too; an upper bound of it is none, as the remark says.

    Args:
        entries: as in `write_evaluation`.

    Raises:
        ValueError: where an entry lacks a name or a value, or is of an unknown kind.
    """
    return _table(entries, by_run=False)


def comparison_table(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The entries of several runs in one table; the rows of one name stand together.

    Args:
        runs: the name of each run and its entries, as in `write_evaluation`.

    Raises:
        ValueError: where an entry lacks a name or a value, or is of an unknown kind.
    """
    rows = [{**entry, "run": run} for run, entries in runs.items() for entry in entries]
    names = list(dict.fromkeys(row.get("name") for row in rows))
    return _table(sorted(rows, key=lambda row: names.index(row.get("name"))), by_run=True)


def bracket_line(entries: Sequence[Mapping[str, Any]], name: str = "elbo") -> str:
    """Between which bounds a quantity lies, the highest lower and the lowest upper, and their gap.

    Empty where there are not both of them.
    """
    bounds = [
        [float(e["value"]) for e in entries if (e["name"], e["kind"]) == (name, kind)]
        for kind in ("lower bound", "upper bound")
    ]
    if not all(bounds):
        return ""
    lower, upper = max(bounds[0]), min(bounds[1])
    return f"{name} between {lower:.3f} and {upper:.3f} nats, a gap of {upper - lower:.3f}"


def _table(entries: Sequence[Mapping[str, Any]], by_run: bool) -> str:
    for entry in entries:
        _check(entry, "entries")
    decimals = _decimals(entries)
    columns = {
        "quantity": [entry["name"] for entry in entries],
        "run": [entry["run"] if by_run else "" for entry in entries],
        "is": [KINDS[entry["kind"]] for entry in entries],
        "nats": [_value(entry, decimals) for entry in entries],
        "images": [_number(entry.get("n"), 0) for entry in entries],
        "ESS": [_number(entry.get("effective_sample_size"), 1) for entry in entries],
        "pixels": [entry.get("binarization") or "" for entry in entries],
        "remark": [_remark(entry) for entry in entries],
    }
    aligned = []
    for title, cells in columns.items():
        if not any(cells):
            continue
        width = max(map(len, (title, *cells)))
        justify = str.rjust if title in ("nats", "images", "ESS") else str.ljust
        aligned.append([justify(cell, width) for cell in (title, "-" * width, *cells)])
    return "\n".join("  ".join(row).rstrip() for row in zip(*aligned, strict=True))


def _remark(entry: Mapping[str, Any]) -> str:
    if entry["kind"] == "estimate":
        return NOT_A_BOUND
    return NOT_OF_LOG_P if (entry["name"], entry["kind"]) == ("elbo", "upper bound") else ""


def _value(entry: Mapping[str, Any], decimals: int) -> str:
    value, stderr = float(entry["value"]), entry.get("stderr")
    # An exact value has no error to show: blanks keep the values under each other.
    error = "" if not stderr else f" ± {float(stderr):.{decimals}f}"
    return f"{value:.{decimals}f}" + error.ljust(decimals + 5)


def _decimals(entries: Sequence[Mapping[str, Any]]) -> int:
    """Two significant digits of the smallest standard error, one to four decimals."""
    errors = [entry.get("stderr") or 0.0 for entry in entries]
    errors = [float(error) for error in errors if math.isfinite(error) and error > 0]
    if not errors:
        return 3
    return min(max(1 - math.floor(math.log10(min(errors))), 1), 4)


def _number(value: Any, decimals: int) -> str:
    return "" if value is None else f"{float(value):,.{decimals}f}"


def _check(entry: Any, where: str) -> None:
    if not isinstance(entry, Mapping) or not {"name", "kind", "value"} <= entry.keys():
        raise ValueError(f"an entry of {where} was {entry!r}; it must have name, kind and value")
    if entry["kind"] not in KINDS:
        raise ValueError(
            f"kind of the entry {entry['name']!r} of {where} was {entry['kind']!r};"
            f" allowed are {', '.join(KINDS)}"
        )
