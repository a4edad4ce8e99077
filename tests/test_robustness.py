"""experiments/robustness.py: its table, its figure, and what it does with what it finds there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from avb_jax import reporting

COMMAND = [sys.executable, str(Path(__file__).parents[1] / "experiments" / "robustness.py")]


def row(**changes) -> dict:
    return {
        "problem": "digits", "setting": "defaults", "factor": 1.0, "seed": 0, "finite": True,
        "log_likelihood": -22.5, "elbo_estimate": -23.0, "log_ratio": 0.1, "spread": 0.2,
        "seconds": 60.0, **changes,
    }  # fmt: skip


BROKEN = row(setting="width", factor=2.0, finite=False, error="step 3: critic_loss was nan")


def test_runs_that_differ_by_their_seeds_share_a_line():
    rows = [BROKEN, row(seed=1, log_likelihood=-23.5, spread=0.1), row()]
    lines = reporting.robustness_table(rows).splitlines()
    found = "| digits | defaults | 1 | 2 | 2 | -23.00 | -23.50 | -22.50 | -23.00 | -23.00 | 0.1 |"
    assert found in lines[2]
    assert "| digits | width | 2 | 1 | 0 |" in lines[3] and len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


def test_a_run_that_broke_says_how():
    assert reporting.robustness_line(BROKEN) == (
        "digits, width × 2, seed 0: step 3: critic_loss was nan"
    )
    assert "log p(x) ≥ -22.50" in reporting.robustness_line(row())


def test_the_command_goes_on_where_it_was(tmp_path):
    """A run that is in the file is not made again; table and figure are made from the file."""
    rows = [row(), BROKEN]
    path = tmp_path / "robustness.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [f"--workdir={tmp_path}", "--problems=digits", "--vary="]
    result = subprocess.run([*COMMAND, *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert "| digits | width |" in (tmp_path / "robustness.md").read_text()
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "option,message",
    [
        ("--problems=nosuch", "problems had nosuch; allowed are four_images, digits, mnist"),
        ("--vary=seed", "vary had seed; allowed are learning_rate"),
    ],
)
def test_wrong_flags_are_one_sentence(tmp_path, option, message):
    wrong = subprocess.run(
        [*COMMAND, f"--workdir={tmp_path}", option], capture_output=True, text=True
    )
    assert wrong.returncode == 2 and message in wrong.stderr
