"""Runs of two processes on this machine: they agree with one, stop together, and lose nothing."""

import dataclasses
import random
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import avb_jax as avb
from avb_jax import reporting


def config_of(num_steps: int, **changes) -> avb.Config:
    return avb.Config(
        **{
            "dataset": "four_images", "binarization": "threshold", "latent_dim": 2, "width": 8,
            "depth": 1, "critic_width": 8, "critic_depth": 1, "critic_trunk_width": 8,
            "batch_size": 4, "steps_per_call": 10, "num_steps": num_steps, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def start_both(start_training, two_processes):
    """Starts both processes of a run."""

    def start(config: avb.Config, workdir: Path, devices: int = 1) -> list[subprocess.Popen]:
        flags = two_processes()
        return [start_training(config, workdir, *own, devices=devices) for own in flags]

    return start


def metrics_lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for_lines(workdir: Path, count: int, running: list[subprocess.Popen]) -> None:
    while metrics_lines(workdir) < count and all(p.poll() is None for p in running):
        time.sleep(0.01)


def results(running: list[subprocess.Popen], timeout: float = 100) -> list[tuple[int, str, str]]:
    """Exit status, output and complaints of each."""
    texts = [process.communicate(timeout=timeout) for process in running]
    return [(p.returncode, *text) for p, text in zip(running, texts, strict=True)]


def assert_same_params(a: Path, b: Path) -> None:
    of_both = (jax.tree.leaves(avb.load(path).params) for path in (a, b))
    for ours, theirs in zip(*of_both, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_two_processes_train_as_one_does(start_both, start_training, tmp_path):
    """The same noise and batches on four devices, here and there: equal up to rounding."""
    config = config_of(100, checkpoint_interval=0.5)
    one = start_training(config, tmp_path / "one", devices=4)
    found = results([one, *start_both(config, tmp_path / "two", 2)])
    assert [status for status, *_ in found] == [0, 0, 0], [text for *_, text in found]
    curves = [
        reporting.read_metrics(tmp_path / name / "metrics.jsonl")["elbo_estimate"]
        for name in ("one", "two")
    ]
    assert len(curves[0]) == 10
    np.testing.assert_allclose(*curves, rtol=1e-3)


@pytest.mark.slow
def test_sigterm_to_one_stops_both_and_they_go_on(start_both, tmp_path):
    config = config_of(200, steps_per_call=4)
    whole = results(start_both(config, tmp_path / "whole"))
    assert [status for status, *_ in whole] == [0, 0], whole
    running = start_both(config, tmp_path / "run")
    wait_for_lines(tmp_path / "run", 3, running)
    running[1].send_signal(signal.SIGTERM)
    for status, printed, complaint in results(running):
        assert status == 0 and "stopped by SIGTERM at step" in printed, complaint
    assert 0 < avb.load(tmp_path / "run").step < 200
    resumed = results(start_both(config, tmp_path / "run"))
    assert [status for status, *_ in resumed] == [0, 0], resumed
    assert_same_params(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("sent", "times"), [(signal.SIGKILL, 20), (signal.SIGTERM, 5)], ids=["SIGKILL", "SIGTERM"]
)
def test_a_run_stopped_again_and_again_ends_as_one_that_never_was(
    start_both, start_training, tmp_path, sent, times, count
):
    """At random moments, of the saves too: a checkpoint every 0.1 s. Bit for bit."""
    rng = random.Random(0)
    rarely = config_of(3000 if count == 1 else 1000)
    often = dataclasses.replace(rarely, checkpoint_interval=0.1)

    def start(config, workdir):
        return start_both(config, workdir) if count == 2 else [start_training(config, workdir)]

    whole = results(start(rarely, tmp_path / "whole"), timeout=600)
    assert all(status == 0 for status, *_ in whole), whole
    stopped = 0
    while stopped < times:
        before = metrics_lines(tmp_path / "run")
        running = start(often, tmp_path / "run")
        wait_for_lines(tmp_path / "run", before + 1, running)
        time.sleep(rng.uniform(0.0, 0.3))
        for process in running if sent == signal.SIGKILL else running[-1:]:
            process.send_signal(sent)
        ended = results(running)
        if all(status == 0 for status, *_ in ended) and "stopped by" not in ended[0][1]:
            break  # it had reached its last step
        expected = 0 if sent == signal.SIGTERM else -sent
        assert [status for status, *_ in ended] == [expected] * count, ended
        stopped += 1
    assert stopped >= 0.7 * times
    resumed = results(start(rarely, tmp_path / "run"), timeout=600)
    assert all(status == 0 for status, *_ in resumed), resumed
    assert_same_params(tmp_path / "whole", tmp_path / "run")
    assert not list((tmp_path / "run/checkpoints").glob("damaged*"))


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_when_one_is_killed_the_other_says_so_within_a_minute(start_both, tmp_path, killed):
    running = start_both(config_of(100_000), tmp_path / "run")
    wait_for_lines(tmp_path / "run", 3, running)
    running[killed].kill()
    ((status, _, complaint),) = results([running[1 - killed]], timeout=60)
    running[killed].communicate()
    assert status not in (0, 2)
    # Where the one that is gone kept the address, the runtime itself may be the first to say so.
    assert "of the 2 processes is gone" in complaint or "another task died" in complaint, complaint
    assert "Traceback" not in complaint


def test_what_the_first_complains_of_both_complain_of(start_both, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/letter.txt").write_text("mine")
    for status, _, complaint in results(start_both(config_of(10), tmp_path / "run")):
        assert status == 2 and "is not empty and holds no run" in complaint
        assert "Traceback" not in complaint


def test_an_incomplete_address_is_one_sentence(start_training, tmp_path):
    process = start_training(config_of(10), tmp_path / "run", "--distributed", "--num_processes=2")
    ((status, _, complaint),) = results([process])
    assert status == 2 and "Traceback" not in complaint
    assert "distributed was given with coordinator_address None" in complaint
