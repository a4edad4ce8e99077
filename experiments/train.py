"""Trains AVB, or a VAE, on images; then evaluates it and draws its figures.

    python experiments/train.py

trains on scikit-learn's digits for some two minutes on two cores, into runs/digits, and
prints the test log-likelihood. A run that was stopped goes on when the command is repeated.
"""

import dataclasses
from pathlib import Path

from absl import flags

import avb_jax as avb
from avb_jax import data, experiment, processes, reporting
from avb_jax.options import from_flags

experiment.define_training_flags()
flags.DEFINE_bool("compare", False, "also train a diagonal Gaussian VAE, in WORKDIR/gaussian")


def main() -> None:
    config = from_flags(avb.Config, flags.FLAGS)
    if flags.FLAGS.compare and config.encoder == "gaussian":
        raise ValueError("compare was given with encoder 'gaussian'; allowed is any other")
    if flags.FLAGS.compare and flags.FLAGS.distributed:
        raise ValueError("compare was given with distributed; allowed is one run at a time")
    workdir = Path(flags.FLAGS.workdir or Path("runs") / Path(config.dataset).stem)
    dataset = data.load_for(config)
    runs = {config.encoder: experiment.train_and_evaluate(config, workdir, dataset)}
    if flags.FLAGS.compare:
        vae = dataclasses.replace(
            config,
            encoder="gaussian",
            refinements=None,
            contrast=None,
            num_samples=None,
            decoder_samples=None,
            critic_samples=None,
        )
        runs["gaussian"] = experiment.train_and_evaluate(vae, workdir / "gaussian", dataset)

    if not processes.is_first():
        return
    print(f"\n{config.dataset}, test split, binarisation {config.binarization}")
    if flags.FLAGS.compare:
        print(reporting.comparison_table(runs))
    else:
        print(reporting.evaluation_table(runs[config.encoder]))
    for line in reporting.remarks(runs[config.encoder], config.explicit):
        print(line)
    print(f"figures: {workdir / 'figures'}")


if __name__ == "__main__":
    experiment.run_command(main)
