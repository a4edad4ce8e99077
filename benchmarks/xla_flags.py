"""Which of XLA's flags make a step faster on this machine's CPU.

    python benchmarks/xla_flags.py    # some 12 minutes on two idle cores

Runs `step.py --notorch` once with each of them, in a process of its own, and prints the times of
the AVB step beside those without a flag. No flag is ever needed; what helps here may not elsewhere.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags
from measured import table_of, write_results
from tqdm import tqdm

from avb_jax import experiment

flags.DEFINE_string("output", "results/xla_flags", "directory of what was measured")
flags.DEFINE_list("cases", ["mnist-mlp", "mnist-conv"], "configurations to measure")
flags.DEFINE_integer("repeats", 7, "turns of each", lower_bound=1)
STEP = Path(__file__).with_name("step.py")
NONE = "none"
TRIED = (
    NONE,
    "--xla_cpu_enable_fast_math=true",
    "--xla_cpu_prefer_vector_width=512",
    "--xla_cpu_multi_thread_eigen=false",
    "--xla_cpu_enable_concurrency_optimized_scheduler=true",
    "--xla_cpu_use_xnnpack=true",
    "--xla_cpu_use_onednn=true",
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT",
)


def measure(flag: str) -> dict:
    """Milliseconds of the AVB step by case; None where XLA does not know the flag."""
    values = flags.FLAGS
    given = "" if flag == NONE else f" {flag}"
    environment = {**os.environ, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + given}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, STEP, "--notorch", f"--cases={','.join(values.cases)}",
            f"--repeats={values.repeats}", f"--output={folder}",
        ]  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if "Unknown flag" in done.stderr:
            return {"flag": flag, "ms": None}
        if done.returncode:
            raise ValueError(f"step.py failed with {flag}: {done.stderr[-500:]}")
        rows = json.loads((Path(folder) / "step.json").read_text())["rows"]
    return {"flag": flag, "ms": {row["case"]: row["ms"]["AVB"] for row in rows}}


def main() -> None:
    rows = [measure(flag) for flag in tqdm(TRIED, unit="flag")]
    without = rows[0]["ms"]
    cases = flags.FLAGS.cases
    table = [(f"`{row['flag']}`", *_cells(row["ms"], without, cases)) for row in rows]
    columns = ["XLA_FLAGS", *(f"{case}, ms (times of none)" for case in cases)]
    write_results("xla_flags", rows, table_of(columns, table))


def _cells(ms: dict | None, without: dict, cases: list[str]) -> list[str]:
    if ms is None:
        return ["unknown here" for _ in cases]
    return [f"{ms[case]:.2f} ({ms[case] / without[case]:.2f})" for case in cases]


if __name__ == "__main__":
    experiment.run_command(main)
