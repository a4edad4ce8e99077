"""Learning against minutes: the times by hand, and what stands at the end of each run."""

import json

import numpy as np
import pytest

from avb_jax.reporting import draw_pace
from avb_jax.reporting.pace import pace_page

# Steps, steps per second and ELBO estimate of each line.
LINES = [(60, 1.0, -20.0), (120, 0.5, -12.0), (240, 1.0, None), (300, 1.0, -10.0)]


def run(workdir, name, seed, value):
    (workdir / name).mkdir()
    columns = ("step", "steps_per_second", "elbo_estimate")
    lines = (json.dumps(dict(zip(columns, line, strict=True))) + "\n" for line in LINES)
    (workdir / name / "metrics.jsonl").write_text("".join(lines))
    entry = {"name": "log_likelihood", "kind": "lower bound", "value": value, "n": 10}
    return {"run": name, "label": name[0], "seed": seed, "evaluation": [entry] * (value < 0.0)}


def test_minutes_are_of_the_median_rate(tmp_path):
    rows = [run(tmp_path, "a0", 0, -8.0), run(tmp_path, "a1", 1, 0.0), run(tmp_path, "b0", 0, -9.0)]
    diverged = {"run": "c0", "label": "c", "seed": 0, "evaluation": [], "diverged": "step 3"}
    (axes,) = pace_page([*rows, diverged], tmp_path).figure.axes
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    marks = [line for line in drawn if line.get_marker() == ">"]
    curves = [line for line in drawn if line not in marks]
    assert len(curves) == 3
    np.testing.assert_allclose(curves[0].get_xdata(), [1.0, 2.0, 5.0])
    np.testing.assert_allclose(curves[0].get_ydata(), [-20.0, -12.0, -10.0])
    assert [(m.get_xdata()[0], m.get_ydata()[0]) for m in marks] == [(5.0, -8.0), (5.0, -9.0)]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    low, high = axes.get_ylim()
    assert low < -20.0 and high > -8.0


def test_a_sweep_of_which_nothing_is_left(tmp_path):
    path = draw_pace([run(tmp_path, "a0", 0, -8.0)], tmp_path, tmp_path / "pace.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    diverged = {"run": "c0", "label": "c", "seed": 0, "evaluation": [], "diverged": "step 3"}
    with pytest.raises(ValueError, match="every run diverged; needed is one"):
        draw_pace([diverged], tmp_path, tmp_path / "none.png")
