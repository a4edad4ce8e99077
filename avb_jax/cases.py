"""A JSON-lines file of what was measured, a row for each case: a benchmark goes on where it was."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from avb_jax.files import plain, write_atomically
from avb_jax.workdir import locked


def measure_cases(
    path: Path,
    cases: Sequence[dict],
    measure: Callable[[dict], dict],
    line: Callable[[dict], str],
    settings: Mapping[str, Any] | None = None,
    check: Callable[[Sequence[dict]], None] | None = None,
) -> list[dict]:
    """The rows of a JSON-lines file, with a new one for each case that it does not hold yet.

    A row is its case, the settings that all cases are measured by, and what `measure` adds,
    written and printed as soon as it is there. It takes the place of a row by other settings; one
    that does not say by which stays. `check` may refuse the cases to measure before the first.

    Raises:
        ValueError: if another process measures there.
    """
    settings = settings or {}
    with locked(path.parent, "measuring"):
        rows = [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []
        known = [row for row in rows if {**settings, **row} == {**row, **settings}]
        todo = [case for case in cases if not any(case.items() <= row.items() for row in known)]
        if check:
            check(todo)
        for number, case in enumerate(todo, start=1):
            row = plain({**measure(case), **settings})
            rows = [other for other in rows if not case.items() <= other.items()] + [row]
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
            print(f"{number}/{len(todo)} {line(row)}", flush=True)
    return rows
