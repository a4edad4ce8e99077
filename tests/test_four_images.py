"""The paper's four images: critic objectives as the mathematics says, and the likelihood."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import avb_jax as avb
from avb_jax import data

LIMIT = -np.log(4.0)
SMALL = {
    "dataset": "four_images",
    "binarization": "threshold",
    "latent_dim": 2,
    "batch_size": 4,
    "encoder": "noise-mlp",
    "num_samples": 32,
    "decoder_samples": 32,
    "width": 32,
    "head_width": 16,
    "head_depth": 1,
    "critic_width": 32,
    "critic_depth": 2,
    "critic_trunk_width": 16,
    "critic_trunk_depth": 1,
    "critic_steps": 3,
    "learning_rate": 2e-3,
    "critic_learning_rate": 2e-3,
    "num_steps": 2000,
}


def fit(**options):
    """Trains on one device; returns the model, the state and the last 100 steps' metrics."""
    config = avb.Config(**{**SMALL, **options})
    images = data.load("four_images", binarization="threshold").train.images
    model, optimizers = avb.build_model(config, (2, 2, 1)), avb.build_optimizers(config)
    state = avb.init_state(model, optimizers, jax.random.key(config.seed))
    steps = jax.jit(avb.fuse_steps(avb.make_train_step(model, optimizers, config)))
    state, metrics = steps(state, np.broadcast_to(images, (config.num_steps, *images.shape)))
    return model, state, jax.tree.map(lambda m: float(np.mean(m[-100:])), metrics)


@pytest.fixture(scope="module")
def x():
    return (data.load("four_images").test.images / 255.0).astype(np.float32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:critic_loss 'exp_as_written'")
def test_as_written_the_critic_learns_nothing_and_the_posterior_collapses(x):
    """|T| below 0.3 and spreads below 0.1; the repaired loss, all else alike, shows neither.

    Measured, seeds 0 to 2: |T| 0.04 to 0.07 against 2.7, spreads 0.02 to 0.04 against 0.57 to 0.60.

    After 500 steps: the posterior goes on to collapse, onto a singular covariance, and seed 0 was
    NaN by step 580. An encoder that sees the score is so sooner; this one asks nothing.

    Spread is the geometric mean of the standard deviations, over 1,000 draws for each image.
    """
    spreads, critics = {}, {}
    for loss in ("exp_as_written", "exp"):
        model, state, _ = fit(critic_loss=loss, refinements=0, survey=0, num_steps=500)
        z = model.sample_posterior(state.params, jax.random.key(1), x, 1000)
        critics[loss] = np.abs(model.critic(state.params, jax.random.key(2), x, z)).mean()
        covariance = [np.linalg.det(np.cov(z[:, image].T)) for image in range(4)]
        spreads[loss] = np.mean(covariance) ** 0.25
    assert critics["exp_as_written"] < 0.3 and critics["exp"] > 1.0
    assert spreads["exp_as_written"] < 0.1 and spreads["exp"] > 0.4


@pytest.mark.parametrize("loss", ["logistic", pytest.param("exp", marks=pytest.mark.slow)])
def test_the_likelihood_comes_close_to_its_limit(loss, x):
    """Exact, by quadrature: within 0.05 nats of −log 4 and never above it."""
    model, state, metrics = fit(critic_loss=loss)
    exact = avb.evaluation.quadrature_log_likelihood(model, state.params, x)
    assert LIMIT - 0.05 < np.mean(exact) <= LIMIT + 1e-5
    assert abs(metrics["balance"]) < 0.02
    assert abs(metrics["reference_mean_ratio"] - 1.0) < 0.1


@pytest.mark.slow
def test_the_default_settings_reach_the_target(tmp_path):
    """`experiments/toy.py` as it is: at least −1.390 nats; ten seeds are in results/."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, root / "experiments/toy.py"]
    # As a user runs it: on the one device there is, compiled with every pass.
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC")}
    environment |= {"PYTHONPATH": str(root), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run(
        [*command, f"--workdir={tmp_path}"], check=True, capture_output=True, env=environment
    )
    entries = json.loads((tmp_path / "avb/evaluation.json").read_text())
    exact = next(entry["value"] for entry in entries if entry["kind"] == "exact")
    assert -1.390 <= exact <= LIMIT + 1e-5
