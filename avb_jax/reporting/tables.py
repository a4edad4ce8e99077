"""The likelihoods of a run as a file and as a table that says which way each bound goes."""

import json
import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avb_jax.files import plain, write_atomically

KINDS = {
    "lower bound": "is at least",
    "exact": "is exactly",
    "estimate": "is about",
    "upper bound": "is at most",
}
SAME_ROW = ("run", "name", "method", "split", "n", "num_samples")
NUMBERS = ("images", "ESS", "k̂ > 0.7", *KINDS.values())  # titles of columns set to the right
CRITIC_REMARK = "A critic's ELBO estimate is no bound: what it misses of KL(q‖r) flatters."
NOT_OF_LOG_P = "at most: not of log p(x)"


def write_evaluation(path: str | os.PathLike, entries: Sequence[Mapping[str, Any]]) -> None:
    """Writes evaluation entries as JSON, atomically; NaN and infinity as null.

    Args:
        path: the file, made with its folder where it is missing.
        entries: each with `name`, `kind` ("lower bound", "upper bound", "estimate" or "exact"),
            `value` and `stderr`, in nats per example or the `unit` named, `n` examples, and
            whatever else tells how it was measured: `method`, `effective_sample_size`, ...

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
    """One row for each quantity and method, aligned plain text, a column for each direction.

    The quantity is at least what stands under `is at least` (a lower bound), at most what stands
    under `is at most` (an upper bound), and only near what stands under `is about`, which is no
    bound of anything. A lower bound of the ELBO is one of log p(x) too; an upper bound of it is
    none, as the remark says. `k̂ > 0.7` is the share of images whose importance weights are not to
    be trusted.

    Args:
        entries: as in `write_evaluation`.

    Raises:
        ValueError: where an entry lacks a name or a value, or is of an unknown kind.
    """
    return _aligned(table_columns({"": entries}))


def comparison_table(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The entries of several runs in one table; the rows of one quantity stand together.

    Args:
        runs: the name of each run and its entries, as in `write_evaluation`.

    Raises:
        ValueError: where an entry lacks a name or a value, or is of an unknown kind.
    """
    return _aligned(table_columns(runs))


def table_columns(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """The cells of `comparison_table`, column by column, by title; columns without a cell left out.

    Args:
        runs: the name of each run, which may be empty, and its entries, as in `write_evaluation`.

    Raises:
        ValueError: where an entry lacks a name or a value, or is of an unknown kind.
    """
    entries = [{**_checked(entry), "run": run} for run in runs for entry in runs[run]]
    names = list(dict.fromkeys((entry["name"], entry.get("method")) for entry in entries))
    entries.sort(key=lambda entry: names.index((entry["name"], entry.get("method"))))
    return {title: cells for title, cells in _columns(entries).items() if any(cells)}


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


def remarks(entries: Sequence[Mapping[str, Any]], explicit: bool) -> list[str]:
    """What a reader of the table must know: how far its bounds are apart, and what is none.

    Args:
        entries: as in `write_evaluation`.
        explicit: whether the run's q(z|x) has a density of its own, and there is no critic.
    """
    names = dict.fromkeys(entry["name"] for entry in entries if entry["name"] != "kl_to_prior")
    lines = [line for name in names if (line := bracket_line(entries, name))]
    return lines if explicit else [*lines, CRITIC_REMARK]


def _columns(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    decimals = _decimals(entries)
    several = len({entry.get("split") for entry in entries}) > 1
    rows: dict[tuple, dict[str, Mapping[str, Any]]] = {}  # what differs by its direction alone
    for entry in entries:
        row = tuple(entry.get(key) for key in SAME_ROW)
        rows.setdefault(row, {})[entry["kind"]] = entry
    some = [next(iter(row.values())) for row in rows.values()]
    return {
        "quantity": [entry["name"] for entry in some],
        "by": [entry.get("method") or "" for entry in some],
        "run": [entry["run"] for entry in some],
        "split": [(entry.get("split") or "") if several else "" for entry in some],
        **{
            title: [_value(row[kind], decimals) if kind in row else "" for row in rows.values()]
            for kind, title in KINDS.items()
        },
        "unit": [entry.get("unit", "nats") for entry in some],
        "images": [_number(entry.get("n"), 0) for entry in some],
        "ESS": [_number(entry.get("effective_sample_size"), 1) for entry in some],
        "k̂ > 0.7": [_share(entry.get("unreliable_share")) for entry in some],
        "pixels": [entry.get("binarization") or "" for entry in some],
        "remark": [NOT_OF_LOG_P if _flatters(row) else "" for row in rows.values()],
    }


def _aligned(columns: Mapping[str, Sequence[str]]) -> str:
    aligned = []
    for title, cells in columns.items():
        width = max(map(_width, (title, *cells)))
        aligned.append(
            [_justify(cell, width, title in NUMBERS) for cell in (title, "-" * width, *cells)]
        )
    return "\n".join("  ".join(row).rstrip() for row in zip(*aligned, strict=True))


def _width(text: str) -> int:
    """Columns on a screen: a combining character takes none."""
    return sum(not unicodedata.combining(character) for character in text)


def _justify(text: str, width: int, right: bool) -> str:
    blanks = " " * (width - _width(text))
    return blanks + text if right else text + blanks


def _flatters(row: Mapping[str, Mapping[str, Any]]) -> bool:
    return "upper bound" in row and row["upper bound"]["name"] == "elbo"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100.0 * value:.1f}%"


def _value(entry: Mapping[str, Any], decimals: int) -> str:
    value, stderr = float(entry["value"]), entry.get("stderr")
    if entry.get("unit", "nats") != "nats":
        decimals = 3 if stderr else 0
    # An exact value has no error to show: blanks keep the values under each other.
    error = "" if not stderr else f" ± {float(stderr):.{decimals}f}"
    return f"{value:.{decimals}f}" + error.ljust(decimals + 5)


def _decimals(entries: Sequence[Mapping[str, Any]]) -> int:
    """Two significant digits of the smallest standard error in nats, one to four decimals."""
    in_nats = [entry for entry in entries if entry.get("unit", "nats") == "nats"]
    errors = [entry.get("stderr") or 0.0 for entry in in_nats]
    errors = [float(error) for error in errors if math.isfinite(error) and error > 0]
    if not errors:
        return 3
    return min(max(1 - math.floor(math.log10(min(errors))), 1), 4)


def _number(value: Any, decimals: int) -> str:
    return "" if value is None else f"{float(value):,.{decimals}f}"


def _checked(entry: Any) -> Mapping[str, Any]:
    _check(entry, "entries")
    return entry


def _check(entry: Any, where: str) -> None:
    if not isinstance(entry, Mapping) or not {"name", "kind", "value"} <= entry.keys():
        raise ValueError(f"an entry of {where} was {entry!r}; it must have name, kind and value")
    if entry["kind"] not in KINDS:
        raise ValueError(
            f"kind of the entry {entry['name']!r} of {where} was {entry['kind']!r};"
            f" allowed are {', '.join(KINDS)}"
        )
