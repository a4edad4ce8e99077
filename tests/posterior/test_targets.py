"""What posteriors are measured by: densities are normalised, and their draws are theirs."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax import posterior, reporting

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
from posteriors.shapes import SHAPES, kl_on_grid  # noqa: E402

PLANE = [name for name, shape in SHAPES.items() if shape.dim == 2]


@pytest.mark.parametrize("name", SHAPES)
def test_the_density_is_that_of_its_draws(name):
    """E_p[r/p] = 1 for a broad Gaussian r of the draws' own moments, within 4 standard errors."""
    shape, rng = SHAPES[name], np.random.default_rng(0)
    z = shape.draw(rng, 20_000)
    assert z.shape == (20_000, shape.dim) and np.isfinite(z).all()
    if "funnel" in name:  # no Gaussian lies within it: along the neck and across it, apart
        exact = -0.5 * (z[:, 0] / 3.0) ** 2 - np.log(3.0 * np.sqrt(2.0 * np.pi))
        exact += -0.5 * np.sum(z[:, 1:] ** 2 * np.exp(-z[:, :1]) + z[:, :1], axis=1)
        exact -= 0.5 * (shape.dim - 1) * np.log(2.0 * np.pi)
        found = jax.vmap(shape.log_density)(jnp.asarray(z, jnp.float32))
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-2)
        return
    # A narrow Gaussian around one draw, wholly within the density.
    width = 0.1
    weights = np.exp(-0.5 * np.sum(((z - z[0]) / width) ** 2, axis=1))
    log_r = -0.5 * shape.dim * np.log(2.0 * np.pi * width**2)
    log_p = np.asarray(jax.vmap(shape.log_density)(jnp.asarray(z, jnp.float32)), np.float64)
    ratios = weights * np.exp(log_r - log_p)
    assert abs(ratios.mean() - 1.0) < 4.0 * ratios.std() / len(z) ** 0.5


@pytest.mark.parametrize("name", PLANE)
def test_exact_draws_have_no_divergence_and_others_have_theirs(name):
    """Half of the draws kept, by the sign of z₁ about its median: KL = log 2."""
    shape, rng = SHAPES[name], np.random.default_rng(1)
    z = shape.draw(rng, 300_000)
    assert abs(kl_on_grid(shape, z, rng)) < 0.005
    half = z[z[:, 0] > np.median(z[:, 0])]
    assert abs(kl_on_grid(shape, half, rng) - np.log(2.0)) < 0.02


@pytest.mark.slow
def test_the_funnel_s_neck_and_mouth_are_reached():
    """D = 10, by default: each side of v's 1% and 99% quantiles, 1% of 20,000 draws, to a half."""
    funnel = SHAPES["funnel"]
    fit = posterior.fit(funnel.log_density, funnel.dim, jax.random.key(0))
    v = np.asarray(fit.sample(jax.random.key(1), 20_000))[:, 0]
    neck, mouth = np.mean(v < -3.0 * 2.3263), np.mean(v > 3.0 * 2.3263)
    assert 0.005 < neck < 0.015 and 0.005 < mouth < 0.015, (neck, mouth)


def test_the_table_has_the_nearest_first():
    row = {"target": "ring", "seed": 0, "mean": 0.1, "spread": 0.2, "quantiles": 0.3, "seconds": 9}
    diverged = {"target": "ring", "method": "bnaf", "seed": 0, "seconds": 9}
    rows = [diverged, {**row, "method": "avb", "c2st": 0.5, "kl": 0.1}]
    rows.append({**row, "method": "iaf", "c2st": 0.7})
    lines = reporting.posterior_table(rows).splitlines()
    assert lines[2].startswith("| ring | avb |") and "| 0.100 |" in lines[2]
    assert lines[4].startswith("| ring | bnaf | 0 | not finite |")
    summary = reporting.posterior_summary([*rows, {**rows[1], "seed": 1, "c2st": 0.6}])
    assert summary.splitlines()[::2] == [
        "| C2ST | bnaf | avb | iaf |", "| ring | not finite | 0.550 | 0.700 |"
    ]  # fmt: skip
    assert "C2ST 0.500, KL 0.100 nats; 9 s" in reporting.posterior_line(rows[1])
