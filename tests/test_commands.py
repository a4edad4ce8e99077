"""The command lines: what they leave, and one sentence and exit status 2 for wrong input."""

import json
import subprocess
import sys
from pathlib import Path

import chex
import numpy as np
import pytest

import avb_jax as avb

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "--width=16 --critic_width=16 --critic_depth=1 --critic_trunk_width=16 --head_width=16 "
    "--num_steps=30 --steps_per_call=10 --latent_dim=3"
).split()
BRIEF = "--evaluation_samples=20 --evaluation_images=40 --critic_fit_steps=0".split()


def command(environment, name, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(command_environment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    result = command(
        command_environment,
        "train", *SMALL, *BRIEF, f"--workdir={workdir}", "--compare", "--tensorboard",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def test_training_prints_a_table_and_leaves_everything(trained):
    workdir, printed = trained
    assert "is at least" in printed and "ELBO estimate is no bound" in printed
    assert "elbo between" in printed and "a gap of" in printed
    assert "gaussian" in printed and str(workdir / "figures") in printed
    for name in ("data", "reconstructions", "samples", "latent", "posteriors", "learning_curves"):
        assert (workdir / "figures" / f"{name}.png").stat().st_size > 1000
    entries = json.loads((workdir / "evaluation.json").read_text())
    kinds = {(entry["name"], entry["kind"]) for entry in entries}
    assert kinds == {
        ("log_likelihood", "lower bound"),
        ("elbo", "estimate"),
        ("elbo", "lower bound"),
        ("elbo", "upper bound"),
        ("kl_to_prior", "lower bound"),
        ("kl_to_prior", "upper bound"),
    }
    assert all(entry["binarization"] == "dynamic" and entry["n"] == 40 for entry in entries)
    for run in (workdir, workdir / "gaussian"):
        (events,) = (run / "tensorboard").iterdir()
        content = events.read_bytes()
        assert content.count(b"elbo_estimate") == 3  # scalars of 30 steps, 10 in a call
        assert content.count(b"learning_curves") == content.count(b"posteriors") == 1
    assert (workdir / "gaussian" / "evaluation.json").exists()


def test_evaluating_reads_everything_from_the_workdir(trained, command_environment):
    workdir, _ = trained
    before = values_of(workdir)
    result = command(
        command_environment, "evaluate", f"--workdir={workdir}", "--methods=importance", *BRIEF
    )
    assert result.returncode == 0, result.stderr
    assert values_of(workdir) == before


def values_of(workdir):
    entries = json.loads((workdir / "evaluation.json").read_text())
    return {(e["name"], e["method"], e["kind"]): e["value"] for e in entries}


def test_sampling_writes_images(trained, command_environment):
    workdir, _ = trained
    result = command(command_environment, "sample", f"--workdir={workdir}", "--num_samples=5")
    assert result.returncode == 0, result.stderr
    with np.load(workdir / "samples.npz") as file:
        assert file["images"].shape == (5, 8, 8, 1) and file["z"].shape == (5, 3)
        assert 0.0 <= file["images"].min() and file["images"].max() <= 1.0
        assert file["traversals"].shape == (3, 16, 8, 8, 1)
        assert file["traversal_z"].shape == (3, 16, 3)
    for name in ("samples.png", "samples_traversals.png"):
        assert (workdir / name).exists()


def test_exported_weights_are_the_run(trained, command_environment):
    workdir, _ = trained
    result = command(command_environment, "export", f"--workdir={workdir}")
    assert result.returncode == 0 and "weights.safetensors" in result.stdout, result.stderr
    exported, run = avb.load(workdir / "weights.safetensors"), avb.load(workdir)
    assert (exported.config, exported.step) == (run.config, run.step)
    chex.assert_trees_all_equal(exported.params, run.params)


def test_reporting_writes_a_page(trained, command_environment, tmp_path):
    workdir, _ = trained
    result = command(command_environment, "report", f"--workdir={workdir}", workdir / "gaussian")
    assert result.returncode == 0, result.stderr
    page = (workdir / "report.html").read_text()
    assert str(workdir / "report.html") in result.stdout and "Pictures of digits/gaussian" in page
    for arguments, named in (((), "workdir was not given"), ((tmp_path,), "does not exist")):
        flag = [f"--workdir={workdir}"] if arguments else []
        result = command(command_environment, "report", *flag, *arguments)
        assert result.returncode == 2 and named in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


COMMANDS = (
    "train evaluate sample report export explore toy mnist fashion_mnist omniglot celeba "
    "critic_accuracy posterior eight_schools calibration robustness"
).split()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_flag(name, command_environment):
    result = command(command_environment, name, "--help")
    assert result.returncode == 0, result.stderr
    assert "--workdir" in result.stdout and "python experiments/" in result.stdout
    if name == "train":
        for text in ("--noise_dim", "<dynamic|static|threshold|none>", "seconds between"):
            assert text in result.stdout


BAD = {
    "an unknown data set": (["--dataset=nosuch"], "nosuch"),
    "an unknown flag": (["--nosuch=1"], "nosuch"),
    "an unknown choice": (["--encoder=nosuch"], "noise-mlp"),
    "a value of another type": (["--batch_size=many"], "batch_size"),
    "a data directory without the data": (["--dataset=mnist", "--data_dir=here"], "mnist"),
    "a batch larger than the data": (["--batch_size=5000"], "batch_size"),
    "a latent dimension below 1": (["--latent_dim=0"], "latent_dim"),
    "a noise dimension below 1": (["--noise_dim=0"], "noise_dim"),
    "a contrast with an explicit encoder": (["--encoder=gaussian", "--contrast=learned"], "KL"),
    "refinements of noise-conv": (["--encoder=noise-conv", "--refinements=1"], "allowed is 0"),
    "a survey beyond two dimensions": (["--latent_dim=3", "--survey=4"], "allowed is 0"),
    "an argument that is no flag": (["digits"], "digits"),
}


@pytest.mark.parametrize("arguments,named", BAD.values(), ids=BAD.keys())
def test_wrong_input_is_one_sentence_and_status_2(arguments, named, command_environment, tmp_path):
    result = command(command_environment, "train", *arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2
    message = result.stderr.strip()
    assert message.startswith("error: ") and named in message
    assert "Traceback" not in message and len(message.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_tensorboard_without_tensorboardx(command_environment, tmp_path):
    (tmp_path / "tensorboardX.py").write_text("raise ImportError")
    hidden = f"{tmp_path}:{command_environment['PYTHONPATH']}"
    result = command(
        command_environment | {"PYTHONPATH": hidden},
        "train", "--tensorboard", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert result.returncode == 2 and "pip install -e '.[tensorboard]'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not (tmp_path / "run").exists()


def test_images_of_the_users_own_that_do_not_fit(command_environment, tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, np.full((40, 8, 8), 300))
    result = command(
        command_environment, "train", f"--dataset={path}", f"--workdir={tmp_path / 'run'}"
    )
    assert result.returncode == 2 and "[0, 255]" in result.stderr


@pytest.mark.parametrize(
    "name, arguments, named",
    [
        ("sample", ["--workdir={run}", "--output=/proc/none/here"], "/proc/none"),
        ("calibration", ["--seed=-1"], "seed"),
        ("critic_accuracy", ["--contrasts=moments", "--given=x"], "left nothing to fit"),
        ("posterior", ["--target=all", "--posteriordb=nowhere"], "nowhere"),
    ],
)
def test_each_command_answers_in_one_sentence(name, arguments, named, trained, command_environment):
    result = command(command_environment, name, *(a.format(run=trained[0]) for a in arguments))
    assert result.returncode == 2 and named in result.stderr, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_workdir_without_a_run(command_environment, tmp_path):
    for name in ("evaluate", "sample", "export"):
        result = command(command_environment, name, f"--workdir={tmp_path / 'nothing'}")
        assert result.returncode == 2 and "nothing" in result.stderr
        assert not (tmp_path / "nothing").exists()


def test_a_workdir_of_another_run_is_kept(trained, command_environment):
    workdir, _ = trained
    result = command(command_environment, "train", *SMALL, "--seed=1", f"--workdir={workdir}")
    assert result.returncode == 2 and "another seed" in result.stderr
    assert (workdir / "checkpoints").exists()
