"""The commands on posteriors: their models, their errors, and how they go on where they were."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax import reporting

pytest.importorskip("numpyro", reason="needs the extra `inference`")
EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
from posteriors.groups import NAMES, draw_exact, log_joint, simulate  # noqa: E402
from posteriors.methods import largest_errors, moment_errors  # noqa: E402


def command(environment, name, *arguments):
    return subprocess.run(
        [sys.executable, str(EXPERIMENTS / f"{name}.py"), *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip


def test_errors_are_in_the_reference_s_standard_deviations():
    """Draws that are the reference, moved by half a deviation and twice as wide, exactly."""
    reference = np.random.default_rng(0).normal(size=(4000, 2)) * np.array([1.0, 10.0])
    mean, scale = reference.mean(axis=0), reference.std(axis=0)
    moved = mean + (reference - mean) * np.array([1.0, 2.0]) + 0.5 * scale
    means, spreads = moment_errors(moved, reference)
    np.testing.assert_allclose(means, 0.5)
    np.testing.assert_allclose(spreads, [0.0, 1.0], atol=1e-12)
    found = largest_errors(moved, reference, 0)
    assert found["mean"] == pytest.approx(0.5) and found["spread"] == pytest.approx(1.0)
    assert found["quantiles"] > 1.9 and found["c2st"] > 0.6


def test_simulated_data_have_the_density_that_is_fitted():
    """E[∂ log p(y, z)] = 0 over draws of both, within 4.5 standard errors; y's spread as stated."""
    z, y = simulate(np.random.default_rng(0), 20_000)
    assert z.shape == (20_000, len(NAMES)) and y.shape == (20_000, 8)
    some = jnp.asarray(y, jnp.float32), jnp.asarray(z, jnp.float32)
    for argument in (0, 1):
        scores = np.asarray(jax.jit(jax.vmap(jax.grad(log_joint, argument)))(*some), np.float64)
        error = np.abs(scores.mean(axis=0))
        assert np.all(error < 4.5 * scores.std(axis=0) / len(z) ** 0.5)
    residuals = y - z[:, :1] - np.exp(z[:, 1:2]) * z[:, 2:]
    assert residuals.std() == pytest.approx(1.0, abs=0.01)


def test_exact_draws_are_calibrated():
    """Ranks of the truth among 19 are uniform on 0 … 19, within 4.5 standard errors of each."""
    rng, count = np.random.default_rng(1), 5000
    truth, y = simulate(rng, count)
    draws = draw_exact(rng, y, 19)
    assert draws.shape == (19, count, 10)
    ranks = np.sum(draws < truth[None], axis=0)
    for of in ranks.T:
        shares = np.bincount(of, minlength=20) / count
        assert np.all(np.abs(shares - 0.05) < 4.5 * (0.05 * 0.95 / count) ** 0.5)


def schools_row(**changes):
    return {
        "version": "authors", "method": "avb", "seed": 0, "c2st": 0.512, "seconds": 61.0,
        "errors": {"mu": [0.01, 0.02], "tau": [0.03, 0.04], "eta": [0.05, 0.06]},
        "moments": {"mu": [0.6, 0.3], "tau": [0.0, 0.7]}, **changes,
    }  # fmt: skip


def test_the_schools_table_keeps_versions_together():
    truth = schools_row(method="nuts", r_hat=1.001, ess=2345.6)
    rows = [schools_row(), schools_row(version="standard"), truth]
    lines = reporting.schools_table(rows).splitlines()
    assert lines[2] == (
        "| authors | avb | 0 | 0.010, 0.030, 0.050 | 0.020, 0.040, 0.060 | 0.60 ± 0.30 | "
        "0.00 ± 0.70 | 0.512 | 61 |"
    )
    assert lines[3].startswith("| authors | nuts |") and lines[4].startswith("| standard | avb |")
    assert "R̂ at most 1.001, at least 2346 effective" in reporting.schools_line(truth)
    assert "errors of mu, tau, eta: means 0.010" in reporting.schools_line(rows[0])


def test_the_schools_go_on_where_they_were(command_environment, tmp_path):
    """A fit that is in the file is not made again; table and figure are made from the files."""
    (tmp_path / "eight_schools.jsonl").write_text(json.dumps(schools_row()) + "\n")
    rng = np.random.default_rng(0)
    for method in ("nuts", "avb"):
        path = tmp_path / "draws" / f"authors-{method}.npz"
        reporting.save_draws(path, rng.normal(size=(100, 10)), list("abcdefghij"))
    options = ["--version=authors", "--methods=avb", f"--workdir={tmp_path}"]
    result = command(command_environment, "eight_schools", *options)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "eight_schools.jsonl").read_text()) == schools_row()
    assert "| authors | avb |" in (tmp_path / "eight_schools.md").read_text()
    assert (tmp_path / "authors.png").read_bytes().startswith(b"\x89PNG")
    wrong = command(command_environment, "eight_schools", "--methods=gibbs")
    assert wrong.returncode == 2 and "methods had gibbs; allowed are avb" in wrong.stderr


@pytest.mark.slow
def test_a_target_s_figure_is_of_the_draws_that_are_kept(command_environment, tmp_path):
    """One quick guide of the ring."""
    options = ["--target=ring", "--methods=mean-field", "--num_draws=500", f"--workdir={tmp_path}"]
    result = command(command_environment, "posterior", *options)
    assert result.returncode == 0, result.stderr
    names, draws = reporting.read_draws(tmp_path / "draws" / "ring-mean-field.npz")
    assert names == ["z[1]", "z[2]"] and draws.shape == (2000, 2)
    _, reference = reporting.read_draws(tmp_path / "draws" / "ring-reference.npz")
    assert np.abs(np.hypot(*reference.T) - 3.0).max() < 2.0
    assert f"figure: {tmp_path / 'ring.png'}" in result.stdout
    assert (tmp_path / "ring.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_ranks_are_written_with_their_verdicts(command_environment, tmp_path):
    """Of a short fit, which some of the data sets lead far astray, without its transitions."""
    options = ["--num_steps=100", "--num_rows=2000", "--num_simulations=60", "--num_draws=9"]
    result = command(
        command_environment, "calibration", *options, "--transitions=0", f"--workdir={tmp_path}"
    )
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "calibration.json").read_text())
    assert set(found["parameters"]) == set(NAMES) and found["num_steps"] == 100
    for of in found["parameters"].values():
        assert len(of["ranks"]) == 60 and 0 <= min(of["ranks"]) <= max(of["ranks"]) <= 9
    assert "| log tau |" in (tmp_path / "calibration.md").read_text()
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_schools_from_the_start(command_environment, tmp_path):
    """NUTS and a guide of the authors' version: the two halves of NUTS's chains agree."""
    options = ["--version=authors", "--methods=nuts,full-rank", f"--workdir={tmp_path}"]
    result = command(command_environment, "eight_schools", *options)
    assert result.returncode == 0, result.stderr
    truth, guide = map(json.loads, (tmp_path / "eight_schools.jsonl").read_text().splitlines())
    assert truth["r_hat"] < 1.02 and max(error for error, _ in truth["errors"].values()) < 0.1
    assert guide["c2st"] > truth["c2st"] and abs(truth["moments"]["tau"][0]) < 0.1
