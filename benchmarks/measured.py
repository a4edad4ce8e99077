"""What the benchmarks share: timing in turns, the machine, JSON and tables."""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from avb_jax.files import write_atomically


def machine() -> dict:
    """Where something was measured."""
    cpu = Path("/proc/cpuinfo")
    names = [line for line in cpu.read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def in_turns(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, A, B, ..., A, B, ...: what disturbs the machine disturbs all alike."""
    taken = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - began)
    return taken


def ratio(taken: dict[str, list[float]], of: str, to: str) -> float:
    """Of the medians."""
    return float(np.median(taken[of]) / np.median(taken[to]))


def table_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_results(name: str, rows: list[dict], text: str) -> None:
    """JSON and a table in --output, with the machine; the table is printed as well."""
    output = Path(flags.FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    found = {"machine": machine(), "rows": rows}
    write_atomically(output / f"{name}.json", (json.dumps(found, indent=1) + "\n").encode())
    write_atomically(output / f"{name}.md", text.encode())
    print(text)
