"""Seconds until something happens: an import, `--help`, the first step of training.

    python benchmarks/startup.py    # some 3 minutes on two cores

Each in a fresh process, `--repeats` times in turn; medians are printed, and left as JSON and a
table in --output. Training is on digits: cold, with an empty compilation cache, and then with the
cache that the cold start left. Expected: `avb_jax` in less than 1.5 times what jax and flax.linen
take, `--help` in less than 2 s, the first step in less than 10 s.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from measured import table_of, write_results
from tqdm import tqdm

from avb_jax import experiment

flags.DEFINE_string("output", "results/startup", "directory of what was measured")
flags.DEFINE_integer("repeats", 5, "fresh processes of each kind", lower_bound=1)
TRAIN = Path(__file__).parents[1] / "experiments" / "train.py"
PATIENCE = 300.0  # seconds to the first step, at most
STARTS = ("import jax, flax.linen", "import avb_jax", "--help", "first step, cold", "first step")


def seconds_of_process(*arguments) -> float:
    """Until it has ended."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def seconds_to_first_step(cache: Path) -> float:
    """Until a training process has written its first step's metrics; it is ended then."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, TRAIN, f"--workdir={metrics.parent}", "--steps_per_call=1"]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        began = time.perf_counter()
        with subprocess.Popen(command, env=environment, **quiet) as process:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                    process.kill()
                    raise ValueError(f"{TRAIN} took no step in {PATIENCE:.0f} s; allowed is one")
                time.sleep(0.01)
            taken = time.perf_counter() - began
            process.kill()
        return taken


def measure_once() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        taken = (
            seconds_of_process("-c", STARTS[0]),
            seconds_of_process("-c", STARTS[1]),
            seconds_of_process(TRAIN, "--help"),
            seconds_to_first_step(Path(folder)),
            seconds_to_first_step(Path(folder)),
        )
    return dict(zip(STARTS, taken, strict=True))


def main() -> None:
    turns = [measure_once() for _ in tqdm(range(flags.FLAGS.repeats), unit="turn")]
    rows = [
        {"start": start, "seconds": float(np.median(seconds)), "all": seconds}
        for start in STARTS
        for seconds in [[turn[start] for turn in turns]]
    ]
    table = [(row["start"], f"{row['seconds']:.2f}") for row in rows]
    write_results("startup", rows, table_of(("start", "seconds"), table))
    print(f"import avb_jax: {rows[1]['seconds'] / rows[0]['seconds']:.2f} times jax and flax.linen")


if __name__ == "__main__":
    experiment.run_command(main)
