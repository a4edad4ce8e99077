"""Sweeps: every combination once, gathered in one file, and the table of it."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

import avb_jax as avb
from avb_jax import sweep
from avb_jax.config import parse_config
from avb_jax.evaluation import EvaluationSettings
from avb_jax.reporting import sweep_table

ROOT = Path(__file__).resolve().parent.parent
QUICK = (
    "--num_steps=20", "--steps_per_call=10", "--num_samples=8", "--decoder_samples=8",
    "--critic_samples=8", "--critic_fit_steps=0", "--evaluation_samples=10",
)  # fmt: skip


def run(environment, name, *arguments):
    return subprocess.run(
        [sys.executable, ROOT / f"experiments/{name}.py", *arguments],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip


def test_a_sweep_makes_each_run_once(command_environment, tmp_path):
    arguments = (*QUICK, f"--workdir={tmp_path}", "--sweep=width=16")
    result = run(
        command_environment, "toy", *arguments, "--posteriors=gaussian", "--sweep=seed=0,1"
    )
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "sweep.jsonl").read_text()
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["run"] for row in rows] == [f"gaussian-width=16-seed={s}" for s in (0, 1)]
    assert [(row["label"], row["seed"]) for row in rows] == [
        ("gaussian-width=16", s) for s in (0, 1)
    ]
    for row in rows:
        config = avb.config.load_config(tmp_path / row["run"] / "config.json")
        assert (config.seed, config.width, config.encoder) == (row["seed"], 16, "gaussian")
        assert {"width": 16, "encoder": "gaussian"}.items() <= row["config"].items()
        written = json.loads((tmp_path / row["run"] / "evaluation.json").read_text())
        assert written == row["evaluation"] and row["seconds"] > 0
    assert (tmp_path / "latent.png").stat().st_size > 10_000
    assert (tmp_path / "sweep.md").read_text() in result.stdout
    again = run(
        command_environment, "toy", *arguments, "--posteriors=gaussian,iaf", "--sweep=seed=1"
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "sweep.jsonl").read_text().startswith(lines)
    assert "1/1 iaf-width=16-seed=1" in again.stdout  # one more, and none of those again
    assert "| gaussian-width=16 | 1 |" in again.stdout


@pytest.mark.slow
def test_a_run_that_diverges_is_told_of_and_the_others_go_on(command_environment, tmp_path):
    arguments = (*QUICK, f"--workdir={tmp_path}", "--posteriors=gaussian", "--schedule=constant")
    rates = "--sweep=learning_rate=1e30,1e-3"
    result = run(command_environment, "toy", *arguments, rates)
    assert result.returncode == 0, result.stderr
    first, second = map(json.loads, (tmp_path / "sweep.jsonl").read_text().splitlines())
    assert first["diverged"].startswith("step ") and first["evaluation"] == []
    assert "diverged" not in second and second["evaluation"]
    assert "gaussian-learning_rate=1e+30: diverged, step " in result.stdout
    assert "| gaussian-learning_rate=1e+30 | 0, 1 diverged |" in result.stdout
    none = run(command_environment, "toy", *arguments, "--sweep=learning_rate=1e30")
    assert none.returncode == 2 and "was nan" in none.stderr


@pytest.mark.parametrize(
    "argument, named",
    [
        ("--posteriors=nosuch", "posteriors had nosuch; allowed are avb, gaussian"),
        ("--posteriors=", "posteriors was empty; allowed are some of avb, gaussian"),
        ("--sweep=nosuch=1", "sweep was nosuch=1; allowed is FLAG=VALUE"),
        ("--sweep=seed", "sweep was seed; allowed is FLAG=VALUE"),
        ("--sweep=seed=many", "sweep was seed=many: "),
        ("--sweep=latent_dim=0", "latent_dim was 0; allowed is 1 or more"),
        ("--sweep=latent_dim=2,3", "latent_dim was 3; allowed are 1 and 2, where log p"),
    ],
)
def test_a_wrong_sweep_is_one_sentence(argument, named, command_environment, tmp_path):
    result = run(command_environment, "toy", argument, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2 and named in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not (tmp_path / "run").exists()


def test_a_setting_that_is_swept_takes_the_place_of_the_posteriors_own(monkeypatch):
    given = flags.FlagValues()
    flags.DEFINE_list("posteriors", ["gaussian-full"], "", flag_values=given)
    flags.DEFINE_multi_string("sweep", ["refinements=0,1"], "", flag_values=given)
    flags.DEFINE_integer("refinements", None, "", flag_values=given)
    given(["sweep"])
    monkeypatch.setattr(flags, "FLAGS", given)
    runs = sweep._runs(avb.Config(), sweep.VAES)
    assert [config.refinement_steps for _, config in runs.values()] == [0, 1]


@pytest.mark.parametrize(
    "arguments, told",
    [([], (0, 8)), (["--refinements=2"], (2, 8)), (["--survey=0"], (0, 0))],
)
def test_a_gaussian_posterior_asks_the_decoder_where_the_command_line_says_so(
    arguments, told, monkeypatch
):
    given = flags.FlagValues()
    flags.DEFINE_list("posteriors", ["gaussian"], "", flag_values=given)
    flags.DEFINE_multi_string("sweep", [], "", flag_values=given)
    for name in sweep.TOLD:
        flags.DEFINE_integer(name, 1, "", flag_values=given)
    given(["sweep", *arguments])
    monkeypatch.setattr(flags, "FLAGS", given)
    config = avb.Config(latent_dim=2, **{name: given[name].value for name in sweep.TOLD})
    own = {"gaussian": {**sweep.VAES["gaussian"], "survey": 8}}
    ((_, of_gaussian),) = sweep._runs(config, own).values()
    assert (of_gaussian.refinement_steps, of_gaussian.survey_side) == told


def test_a_sweep_is_no_run_of_several_processes(monkeypatch, tmp_path):
    given = flags.FlagValues()
    flags.DEFINE_bool("distributed", True, "", flag_values=given)
    given(["sweep"])
    monkeypatch.setattr(flags, "FLAGS", given)
    with pytest.raises(ValueError, match="distributed was given with a sweep; allowed is a single"):
        sweep.sweep(avb.Config(), tmp_path / "runs", EvaluationSettings())
    assert not (tmp_path / "runs").exists()


def row(label, seed, *entries):
    names = ("name", "kind", "value", "n")
    evaluation = [dict(zip(names, entry, strict=True)) for entry in entries]
    of_run = {"run": f"{label}-{seed}", "label": label, "seed": seed, "seconds": 90.0}
    return {**of_run, "evaluation": evaluation}


def test_the_table_has_means_over_seeds_of_the_tightest_bounds():
    rows = [
        row("a", 0, ("log_likelihood", "lower bound", -3.0, 10), ("elbo", "upper bound", -3.0, 10),
            ("log_likelihood", "lower bound", -2.0, 10), ("elbo", "upper bound", -4.0, 10),
            ("log_likelihood", "lower bound", -1.0, 5), ("rate", "estimate", 1.0, 5)),
        row("a", 1, ("log_likelihood", "lower bound", -4.0, 10)),
        row("b", 0, ("log_likelihood", "exact", -7.0, 10)),
    ]  # fmt: skip
    lines = sweep_table(rows).splitlines()
    assert lines[0] == "| run | seeds | log p(x) ≥ | log p(x) = | ELBO ≤ | training, min |"
    # (−2 − 4) / 2, and the standard error √2 / √2 of these two.
    assert lines[2] == "| a | 2 | −3.000 ± 1.000 |  | −4.000 | 1.5 |"
    assert lines[3] == "| b | 1 |  | −7.000 |  | 1.5 |"


def test_the_table_has_a_line_for_each_configuration_and_each_seed_once():
    entry = ("log_likelihood", "lower bound", -2.0, 10)
    plain, named = (row("a", 0, entry) | {"run": name} for name in ("a", "a-seed=0"))
    other = row("a", 1, ("log_likelihood", "lower bound", -8.0, 10)) | {"config": {"width": 8}}
    lines = sweep_table([plain, named, other]).splitlines()
    assert lines[2:] == ["| a | 1 | −2.000 | 1.5 |", "| a | 1 | −8.000 | 1.5 |"]


def test_other_splits_have_no_part_in_the_table():
    told = row("a", 0, ("log_likelihood", "lower bound", -2.0, 10), ("elbo", "estimate", -1.0, 60))
    for entry, split in zip(told["evaluation"], ("test", "train"), strict=True):
        entry["split"] = split
    assert sweep_table([told]).splitlines()[2] == "| a | 1 | −2.000 | 1.5 |"


CONFIG = """
import sys
from absl import flags
sys.path.insert(0, "experiments")
import mnist
mnist.define_flags("mnist")
flags.FLAGS(sys.argv)
print(mnist.config_of_flags().to_json())
"""


@pytest.mark.slow
def test_the_papers_networks_train_for_a_few_steps(command_environment):
    """`--scale=paper` of experiments/mnist.py: its step is compiled, and its losses are finite."""
    told = subprocess.run(
        [sys.executable, "-c", CONFIG, "--scale=paper", "--batch_size=4", "--num_steps=2"],
        capture_output=True, text=True, check=True, env=command_environment, cwd=ROOT,
    )  # fmt: skip
    config = parse_config(told.stdout, "what was printed")
    assert (config.ema_decay, config.width, config.latent_dim) == (0.0, 300, 8)
    assert (config.refinement_steps, config.survey_side, config.warmup_steps) == (0, 0, 0)
    model = avb.build_model(config, (28, 28, 1))
    optimizers = avb.build_optimizers(config)
    state = avb.init_state(model, optimizers, jax.random.key(0))
    step = avb.compile_step(avb.make_train_step(model, optimizers, config))
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
    for _ in range(2):
        state, metrics = step(state, images)
    assert all(np.isfinite(value) for value in jax.tree.leaves(metrics))


@pytest.mark.slow
def test_celeba_trains_on_images_of_its_shape(command_environment, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (100, 64, 64, 3), np.uint8)
    np.save(tmp_path / "faces.npy", images)
    result = run(
        command_environment, "celeba", f"--dataset={tmp_path}/faces.npy",
        f"--workdir={tmp_path}/run", "--num_steps=2", "--batch_size=4", "--steps_per_call=1",
        "--width=32", "--critic_width=32", "--evaluation_images=2", "--evaluation_samples=2",
        "--critic_fit_steps=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    figures = {path.name for path in (tmp_path / "run/figures").iterdir()}
    assert {"samples.png", "reconstructions.png", "interpolations.png"} <= figures
