"""The loop: a run that was killed goes on bit for bit; directories; losses that are not finite."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import optax
import pytest

import avb_jax as avb
from avb_jax.data import Dataset, Split
from avb_jax.reporting import read_metrics

ROOT = Path(__file__).resolve().parent.parent
TINY = avb.Config(
    dataset="four_images",
    latent_dim=2,
    width=8,
    depth=1,
    head_width=8,
    head_depth=1,
    critic_width=8,
    critic_depth=1,
    critic_trunk_width=8,
    critic_trunk_depth=1,
    batch_size=4,
    num_steps=60,
    steps_per_call=8,
    checkpoint_interval=0.001,
    ema_decay=0.9,
)


def leaves(run: avb.Run) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run.params)]


def test_a_run_leaves_its_files_and_is_given_back(tmp_path):
    told = []
    run = avb.train(TINY, tmp_path / "run", on_metrics=lambda *said: told.append(said))
    loaded = avb.load(tmp_path / "run")
    assert loaded.config == TINY
    assert loaded.step == TINY.num_steps
    for kept, given in zip(leaves(run), leaves(loaded), strict=True):
        np.testing.assert_array_equal(kept, given)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [8, 16, 24, 32, 40, 48, 56, 60]
    assert all(np.isfinite(line["elbo_estimate"]) for line in lines)
    assert [{"step": step, **metrics} for step, metrics in told] == lines
    z = loaded.model.sample_posterior(loaded.params, jax.random.key(0), np.zeros((3, 2, 2, 1)), 5)
    assert z.shape == (5, 3, 2)


class Stopped(Exception):
    pass


def test_a_run_that_stopped_goes_on_bit_for_bit(tmp_path):
    whole = avb.train(TINY, tmp_path / "whole")

    def stop(run):
        if run.step >= 24:
            raise Stopped

    config = dataclasses.replace(TINY, figure_interval=0.001)
    with pytest.raises(Stopped):
        avb.train(config, tmp_path / "stopped", on_interval=stop)
    resumed = avb.train(TINY, tmp_path / "stopped")
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    metrics = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "stopped")]
    for columns in metrics:  # the one that no seed decides
        assert (columns.pop("steps_per_second") > 0).all()
    chex.assert_trees_all_equal(*metrics)


CHILD = """
import sys, avb_jax as avb
from avb_jax.config import load_config
avb.train(load_config(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.slow
def test_sigkill_at_five_random_moments(tmp_path):
    """Each child is killed some time after its first steps; the last one ends the run."""
    config = dataclasses.replace(TINY, num_steps=6000, steps_per_call=10, checkpoint_interval=0.2)
    whole = avb.train(config, tmp_path / "whole")
    path, workdir = tmp_path / "config.json", tmp_path / "killed"
    path.write_text(config.to_json())
    flags = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(path), str(workdir)]
    rng = np.random.default_rng(0)
    for _ in range(5):
        lines = metrics_lines(workdir)
        child = subprocess.Popen(command, env=flags, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while metrics_lines(workdir) <= lines + 2 and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.5))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert metrics_lines(workdir) < 600
    resumed = avb.train(config, workdir)
    assert metrics_lines(workdir) == 600
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def metrics_lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_directory_of_another_config_is_refused(tmp_path):
    avb.train(TINY, tmp_path / "run")
    before = (tmp_path / "run/config.json").read_text()
    other = dataclasses.replace(TINY, latent_dim=3, num_samples=5, seed=1)
    with pytest.raises(ValueError, match="another latent_dim, num_samples, seed"):
        avb.train(other, tmp_path / "run")
    with pytest.raises(ValueError, match="resume off"):
        avb.train(TINY, tmp_path / "run", resume=False)
    assert (tmp_path / "run/config.json").read_text() == before
    assert avb.load(tmp_path / "run").step == TINY.num_steps


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and holds no run"):
        avb.train(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size"):
        avb.train(dataclasses.replace(TINY, batch_size=8), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    """The 20th update blows up: its step and term are named, the checkpoint of step 16 stays."""
    rate = optax.join_schedules([lambda _: 1e-3, lambda _: np.inf], [19])
    optimizers = avb.Optimizers(optax.sgd(rate), optax.sgd(1e-3))
    with pytest.raises(FloatingPointError, match=r"step 21: (reconstruction|kl_estimate) was nan"):
        avb.train(TINY, tmp_path / "run", optimizers=optimizers)
    run = avb.load(tmp_path / "run", optimizers=optimizers)
    assert run.step == 16
    assert all(np.isfinite(leaf).all() for leaf in leaves(run))


def test_images_of_another_size_do_not_harm_a_run(tmp_path):
    avb.train(TINY, tmp_path / "run")
    split = Split(np.zeros((4, 3, 3, 1), np.uint8), None)
    with pytest.raises(ValueError, match="images of shape 3 3 1"):
        avb.train(TINY, tmp_path / "run", dataset=Dataset("other", split, split, split))
    assert avb.load(tmp_path / "run").model.event_shape == (2, 2, 1)


def test_the_newest_damaged_checkpoint_is_set_aside(tmp_path, caplog):
    whole = avb.train(TINY, tmp_path / "run")
    newest = tmp_path / "run/checkpoints/00000060"
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 200 and "ocdbt" in str(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    resumed = avb.train(TINY, tmp_path / "run")
    assert any(p.name.startswith("damaged") for p in newest.parent.iterdir())
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_any_image_shape_trains(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 9, 12, 3), dtype=np.uint8)
    split = Split(images, None)
    dataset = Dataset("made here", split, split, split)
    config = dataclasses.replace(TINY, decoder="conv", num_steps=2, steps_per_call=2)
    run = avb.train(config, tmp_path / "run", dataset=dataset)
    means = run.model.decode_mean(run.params, np.zeros((1, 4, 2), np.float32))
    assert means.shape == (1, 4, 9, 12, 3)
