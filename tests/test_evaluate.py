"""`experiments/evaluate.py`: what it writes and prints, and that a killed one goes on."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import avb_jax as avb
from avb_jax import experiment, reporting

ROOT = Path(__file__).resolve().parent.parent
AIS = "--ais_temperatures=60 --ais_chains=3 --simulated_images=30".split()
BRIEF = "--evaluation_samples=40 --evaluation_images=60 --critic_fit_steps=0".split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    small = {"critic_width": 16, "critic_depth": 1, "critic_trunk_width": 16}
    config = avb.Config(latent_dim=3, width=16, num_steps=30, steps_per_call=10, **small)
    avb.train(config, workdir)
    return workdir


def start(environment, *arguments) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "experiments/evaluate.py"), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, env=environment)


def evaluate(environment, *arguments) -> str:
    process = start(environment, *arguments)
    printed, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    return printed


@pytest.fixture(scope="module")
def evaluated(trained, command_environment):
    methods = "--methods=importance,iwae,ais,latent"
    options = (methods, "--iwae_samples=1,20", *AIS, *BRIEF)
    return trained, evaluate(command_environment, f"--workdir={trained}", *options)


def test_every_number_says_what_it_is_and_how_it_was_made(evaluated):
    entries = reporting.read_evaluation(evaluated[0] / "evaluation.json")
    kinds = [(e["name"], e["method"], e["kind"]) for e in entries]
    assert kinds == [
        ("log_likelihood", "importance", "lower bound"),
        ("log_likelihood", "IWAE, K = 1", "lower bound"),
        ("log_likelihood", "IWAE, K = 20", "lower bound"),
        ("log_likelihood", "AIS", "lower bound"),
        ("log_likelihood of simulated x", "AIS, both ways", "lower bound"),
        ("log_likelihood of simulated x", "AIS, both ways", "upper bound"),
        ("rate", "latent", "estimate"),
        ("distortion", "latent", "estimate"),
        ("active_units", "latent", "estimate"),
        ("probe_accuracy", "latent", "estimate"),
    ]
    for entry in entries:
        assert entry["binarization"] == "dynamic" and entry["seed"] == 0
        assert entry["seconds"] > 0.0 and entry["n"] == (
            60 if "simulated" not in entry["name"] else 30
        )
        assert entry["name"] == "active_units" or entry["stderr"] >= 0.0
    importance, _, iwae, ais = entries[:4]
    assert 0.0 <= importance["unreliable_share"] <= 1.0 and importance["num_samples"] == 40
    assert ais["ais"]["num_temperatures"] == 60 and 0.3 < ais["acceptance"] < 1.0
    tolerance = 4.0 * (ais["stderr"] + iwae["stderr"])
    assert abs(ais["value"] - iwae["value"]) < tolerance


def test_the_table_shows_directions_and_the_certificate_of_ais(evaluated):
    printed = evaluated[1]
    assert "is at least" in printed and "is at most" in printed and "is about" in printed
    assert "of simulated x between" in printed and "a gap of" in printed
    assert not (evaluated[0] / "evaluation-test").exists()


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_same_figures(trained, command_environment, tmp_path):
    """SIGKILL once a batch of AIS is kept; bit for bit the figures of a run that was not killed."""
    options = ["--methods=importance,ais", "--batch_size=10", *AIS, *BRIEF]
    figures = []
    for kill in (True, False):
        workdir = tmp_path / f"killed-{kill}"
        shutil.copytree(trained, workdir)
        (workdir / "evaluation.json").unlink(missing_ok=True)
        if kill:
            process = start(command_environment, f"--workdir={workdir}", *options)
            while process.poll() is None and not (workdir / "evaluation-test/ais.npz").exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            assert not (workdir / "evaluation.json").exists()
        evaluate(command_environment, f"--workdir={workdir}", *options)
        entries = json.loads((workdir / "evaluation.json").read_text())
        figures.append([{k: v for k, v in e.items() if k != "seconds"} for e in entries])
    assert figures[0] == figures[1] and len(figures[0]) == 4


def test_other_methods_leave_what_was_known(evaluated, command_environment, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(evaluated[0], workdir)
    entries = reporting.read_evaluation(workdir / "evaluation.json")
    before = {_row(e): e["value"] for e in entries}
    older = [{**entry, "method": "of fewer steps", "step": 1} for entry in entries]
    reporting.write_evaluation(workdir / "evaluation.json", [*entries, *older])
    evaluate(command_environment, f"--workdir={workdir}", "--methods=importance", *BRIEF[1:])
    after = {_row(e): e["value"] for e in reporting.read_evaluation(workdir / "evaluation.json")}
    changed = {row for row in before if before[row] != after[row]}
    assert before.keys() == after.keys()
    assert changed == {("log_likelihood", "importance", "lower bound")}


def _row(entry: dict) -> tuple:
    return entry["name"], entry["method"], entry["kind"]


@pytest.mark.slow
def test_the_authors_protocol(trained, command_environment, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    options = ["--protocol=mescheder2017", "--ais_temperatures=4", "--simulated_images=0"]
    evaluate(command_environment, f"--workdir={workdir}", *options)
    (entry,) = [
        e for e in reporting.read_evaluation(workdir / "evaluation.json") if e["method"] == "AIS"
    ]
    expected = {"num_temperatures": 4, "num_chains": 8, "num_leapfrog": 11, "start": "gaussian"}
    assert expected.items() <= entry["ais"].items() and entry["n"] == 180  # of the 2,560 asked for


def test_of_grey_pixels_both_sides_of_the_elbo_are_shown_and_no_bound():
    """Bernoulli is not normalised over them: nothing bounds log p(x), but the sides differ."""
    lower, upper = ({"name": "elbo", "kind": f"{side} bound", "method": "semi-implicit"}
                    for side in ("lower", "upper"))  # fmt: skip
    told = [{**lower, "value": -101.0}, {**upper, "value": -99.0},
            {**lower, "name": "log_likelihood", "method": "IWAE", "value": -98.0}]  # fmt: skip
    entries = [experiment._of_grey_pixels({**entry, "n": 10, "stderr": 0.1}) for entry in told]
    assert {entry["kind"] for entry in entries} == {"estimate"}
    table = reporting.evaluation_table(entries)
    for number in ("-101.0", "-99.0", "-98.0"):
        assert number in table
    assert "semi-implicit, lower bound" in table and reporting.bracket_line(entries) == ""


def test_runs_are_compared(evaluated, command_environment, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(evaluated[0], tmp_path / name)
    printed = evaluate(command_environment, "--compare", tmp_path / "a", tmp_path / "b")
    rows = [line.split() for line in printed.splitlines() if line.startswith("rate")]
    assert len(rows) == 2 and {"a", "b"} <= {word for row in rows for word in row}
    assert (tmp_path / "a/figures/comparison.png").stat().st_size > 1000


BAD = {
    "a method that does not exist": (["--methods=guess"], "methods had guess; allowed are"),
    "K below 1": (["--iwae_samples=0"], "iwae_samples had 0; allowed are whole numbers"),
    "one temperature": (["--methods=ais", "--ais_temperatures=1"], "num_temperatures was 1"),
    "an argument": (["runs"], "1 arguments followed; allowed is --workdir=DIR, or"),
    "one run to compare": (["--compare", "runs"], "was given 1 directories; allowed are two"),
    "no run to compare": (["--compare", "here", "there"], "does not exist"),
}


@pytest.mark.parametrize("arguments,sentence", BAD.values(), ids=BAD.keys())
def test_wrong_input_is_one_sentence_and_status_2(
    arguments, sentence, trained, command_environment
):
    process = start(
        command_environment, f"--workdir={trained}", *arguments, "--evaluation_images=5"
    )
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 2 and sentence in complaint
    assert len([line for line in complaint.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in complaint
