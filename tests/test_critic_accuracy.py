"""The samplers of experiments/critic_accuracy.py draw from the densities that they state."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax import reporting

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
from known_samplers import SAMPLERS, X_DIM, conditional  # noqa: E402

DRAWS = 20_000
SIGMAS = 4.5  # tolerated standard errors, at a fixed seed


def stein(z: np.ndarray, score: np.ndarray) -> None:
    """E_q[z_i ∂_j log q + δ_ij] = 0 for every density that vanishes at infinity."""
    terms = np.einsum("ni,nj->nij", z, score) + np.eye(z.shape[1])[None]
    error = np.abs(terms.mean(0))
    assert np.all(error < SIGMAS * terms.std(0) / len(z) ** 0.5 + 1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dim", [1, 2])
def test_densities_sum_to_one(name, dim):
    known = SAMPLERS[name](np.random.default_rng(3), dim)
    edges, step = np.linspace(-16.0, 16.0, 1281, dtype=np.float32), 0.025
    grid = np.stack(np.meshgrid(*[edges] * dim), -1).reshape(-1, dim)
    density = np.exp(np.asarray(jax.jit(known.log_density)(grid), np.float64))
    assert density.sum() * step**dim == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_draws_are_of_the_density(name, dim):
    known = SAMPLERS[name](np.random.default_rng(3), dim)
    z = jax.jit(known.sample, static_argnums=1)(jax.random.key(0), DRAWS)
    assert z.shape == (DRAWS, dim)
    score = jax.jit(jax.grad(lambda z: jnp.sum(known.log_density(z))))(z)
    stein(np.asarray(z, np.float64), np.asarray(score, np.float64))


@pytest.mark.parametrize("dim", [1, 3])
def test_draws_given_x_are_of_the_density(dim):
    rng = np.random.default_rng(3)
    known = conditional(SAMPLERS["banana"](rng, dim), rng, dim)
    x = jax.random.normal(jax.random.key(1), (DRAWS, X_DIM))
    z = jax.jit(known.sample)(jax.random.key(0), x)
    score = jax.jit(jax.grad(lambda z: jnp.sum(known.log_density(x, z))))(z)
    stein(np.asarray(z, np.float64), np.asarray(score, np.float64))
    assert np.std(np.asarray(known.log_density(x, z) - known.log_density(x[::-1], z))) > 0.1


def row(**changes) -> dict:
    return {
        "sampler": "banana", "conditional": False, "dim": 2, "contrast": "flow",
        "loss": "logistic", "bias": -0.01, "stderr": 0.001, "rmse": 0.1, "contrast_rmse": 0.2,
        "kl": 0.5, "kl_estimate": 0.49, "seconds": 61.4, **changes,
    }  # fmt: skip


def test_the_table_has_a_line_for_each_fit():
    text = reporting.accuracy_table([row(), row(dim=1, conditional=True, rmse=None)])
    lines = text.splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| banana | 2 | flow | logistic | -0.010 ± 0.001 | 0.100 | 0.200 | 0.500 |" in lines[2]
    assert "banana, given x" in lines[3] and "not finite" in lines[3]


def test_the_command_goes_on_where_it_was(tmp_path):
    """A fit that is in the file is not made again; table and figure are made from the file."""
    done = row(sampler="linear", dim=1, contrast="best", seed=0)
    path = tmp_path / "critic_accuracy.jsonl"
    path.write_text(json.dumps(done) + "\n")
    command = [sys.executable, str(EXPERIMENTS / "critic_accuracy.py"), f"--workdir={tmp_path}"]
    options = ["--samplers=linear", "--dims=1", "--given=nothing"]
    result = subprocess.run([*command, *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(path.read_text()) == done
    assert "| linear | 1 |" in (tmp_path / "critic_accuracy.md").read_text()
    assert (tmp_path / "critic_accuracy.png").read_bytes().startswith(b"\x89PNG")
    for option, message in (
        ("--dims=0", "dims was 0; allowed are whole numbers above 0"),
        ("--samplers=nosuch", "samplers were nosuch; allowed are linear"),
    ):
        wrong = subprocess.run([*command, option], capture_output=True, text=True)
        assert wrong.returncode == 2 and message in wrong.stderr
