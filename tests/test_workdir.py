"""A run that is asked to stop, one that finds another in its directory, and one on a full disk."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

import avb_jax as avb
from avb_jax import workdir as workdir_of_runs
from avb_jax.cases import measure_cases
from avb_jax.workdir import Preempted, locked, sigterm_noticed


def config_of(num_steps: int, **changes) -> avb.Config:
    return avb.Config(
        dataset="four_images", binarization="threshold", latent_dim=2, width=8, depth=1,
        critic_width=8, critic_depth=1, critic_trunk_width=8, batch_size=4, steps_per_call=10,
        num_steps=num_steps, **changes,
    )  # fmt: skip


def metrics_lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_sigterm_saves_says_how_to_go_on_and_is_no_failure(start_training, tmp_path):
    """And the run, resumed, is bit for bit the one that was never stopped."""
    workdir, config = tmp_path / "run", config_of(600)
    whole = start_training(config, tmp_path / "whole")
    process = start_training(config, workdir)
    while metrics_lines(workdir) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    assert "stopped by SIGTERM at step" in printed and "goes on from there" in printed
    saved = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    assert len(saved) == 1 and 0 < saved[0] < 600
    assert f"at step {saved[0]} of 600" in printed and metrics_lines(workdir) == saved[0] // 10
    resumed = start_training(config, workdir)
    for run in (whole, resumed):
        assert run.communicate(timeout=300) and run.returncode == 0
    ours, theirs = (avb.load(path).params for path in (workdir, tmp_path / "whole"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_process_at_a_time_trains_in_a_directory(start_training, tmp_path):
    avb.train(config_of(10), tmp_path / "run")
    with locked(tmp_path / "run", "training"):
        process = start_training(config_of(10), tmp_path / "run")
        _, complaint = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in complaint
    assert f"where process {os.getpid()} is training; wait for it" in complaint
    avb.train(config_of(10), tmp_path / "run")


def test_what_came_between_a_look_and_the_lock_is_kept(tmp_path, monkeypatch):
    """Another process makes the directory its own when this one has looked at it."""
    looks, look = [], workdir_of_runs._check

    def late(workdir, config, shape, resume):
        look(workdir, config, shape, resume)
        if not looks:
            workdir.mkdir()
            (workdir / "config.json").write_text(config_of(10, seed=7).to_json())
        looks.append(shape)

    monkeypatch.setattr(workdir_of_runs, "_check", late)
    with pytest.raises(ValueError, match="which holds a run with another seed"):
        avb.train(config_of(10), tmp_path / "run")
    assert avb.config.load_config(tmp_path / "run/config.json").seed == 7


def test_an_error_of_the_callers_own_is_not_the_directorys(tmp_path):
    def on_metrics(step, metrics):
        raise ConnectionError("the logger is gone")

    with pytest.raises(ConnectionError, match="the logger is gone"):
        avb.train(config_of(10), tmp_path / "run", on_metrics=on_metrics)


def test_sigterm_during_the_last_steps_is_heard(tmp_path):
    """What follows training would not be asked again."""

    def on_metrics(step, metrics):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match="stopped by SIGTERM at step 10 of 10, which is saved"):
        avb.train(config_of(10), tmp_path / "run", on_metrics=on_metrics)
    assert avb.load(tmp_path / "run").step == 10


@pytest.mark.parametrize("interval", [3600.0, 0.01], ids=["metrics", "checkpoint"])
def test_a_full_disk_is_one_sentence_and_harms_no_checkpoint(
    interval, start_training, command_environment, tmp_path
):
    """Files may grow to 4 kB only, as if the disk were full: metrics.jsonl soon does not fit, and
    a checkpoint does not fit at all."""
    workdir, config = tmp_path / "run", config_of(3000, checkpoint_interval=interval)
    avb.train(dataclasses.replace(config, num_steps=10), workdir)
    (workdir / "config.json").write_text(config.to_json())
    environment = command_environment | {"XDG_CACHE_HOME": str(tmp_path)}
    process = start_training(config, workdir, env=environment)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 2, complaint
    assert "which cannot be written: " in complaint and "what was saved before stays" in complaint
    # In one piece, if not on a line of its own: TensorStore's threads complain besides.
    assert f"error: workdir was {workdir}, which cannot be written: " in complaint
    assert avb.load(workdir).step == 10


def test_two_do_not_write_one_file_of_rows(tmp_path):
    """The second would not know of the rows of the first, and write over them."""
    path = tmp_path / "new" / "rows.jsonl"

    def measure(case):
        with pytest.raises(ValueError, match=f"process {os.getpid()} is measuring; wait for it"):
            measure_cases(path, [{"case": 2}], dict, str)
        return case

    assert measure_cases(path, [{"case": 1}], measure, str) == [{"case": 1}]


def test_a_row_by_other_settings_is_measured_again(tmp_path):
    path, taken = tmp_path / "rows.jsonl", []

    def measure(case):
        taken.append(case["case"])
        return {**case, "number": len(taken)}

    def rows(cases, steps):
        cases = [{"case": name} for name in cases]
        found = measure_cases(path, cases, measure, str, {"num_steps": steps})
        return [(row["case"], row["num_steps"], row["number"]) for row in found]

    assert rows("ab", 10) == [("a", 10, 1), ("b", 10, 2)]
    assert rows("ab", 10) == [("a", 10, 1), ("b", 10, 2)]
    assert rows("a", 20) == [("b", 10, 2), ("a", 20, 3)]
    path.write_text('{"case": "c", "number": 9}\n')
    assert measure_cases(path, [{"case": "c"}], measure, str, {"num_steps": 5}) == [
        {"case": "c", "number": 9}
    ]


def test_only_cases_still_to_measure_are_checked(tmp_path):
    path = tmp_path / "rows.jsonl"

    def check(cases):
        if {"case": 2} in cases:
            raise ValueError("case was 2")

    def rows(*names):
        cases = [{"case": name} for name in names]
        return measure_cases(path, cases, lambda case: case, str, check=check)

    with pytest.raises(ValueError, match="case was 2"):
        rows(1, 2)
    assert rows(1) == [{"case": 1}]
    path.write_text('{"case": 1}\n{"case": 2}\n')
    assert rows(1, 2) == [{"case": 1}, {"case": 2}]


def test_two_may_write_one_file_at_once(tmp_path):
    """It is whole, and either's, and nothing else is left."""
    script = "import sys; from avb_jax.files import write_atomically as w\n"
    script += "[w(sys.argv[1], sys.argv[2].encode() * 100_000) for _ in range(20)]"
    command = [sys.executable, "-c", script, tmp_path / "file"]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda c: subprocess.run([*command, c], check=True), "AB"))
    assert (tmp_path / "file").read_bytes() in (b"A" * 100_000, b"B" * 100_000)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_another_thread_trains_without_a_handler():
    found = []

    def work():
        with sigterm_noticed() as came:
            found.append(came())

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False] and signal.getsignal(signal.SIGTERM) is before


def test_the_handler_before_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_noticed() as came:
        assert not came()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert came()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("keep", [1, 2])
def test_so_many_checkpoints_stay(tmp_path, keep):
    config = config_of(60, checkpoint_interval=1e-6, keep_checkpoints=keep)
    avb.train(config, tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert names == [f"{step:08d}" for step in (50, 60)[-keep:]]
