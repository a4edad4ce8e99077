"""Trains AVB, or a VAE, on images; then evaluates it and draws its figures.

    python experiments/train.py
    python experiments/train.py --sweep=seed=0,1,2 --sweep=critic_steps=1,2

The first trains on scikit-learn's digits, evaluates, and prints the test log-likelihood, in some
three and a half minutes on two cores, into runs/digits. The second makes six runs, in runs/digits
too, and a table of them. What was stopped goes on when the command is repeated.
"""

import dataclasses

from absl import flags

import avb_jax as avb
from avb_jax import data, experiment, processes, reporting
from avb_jax import sweep as sweeps
from avb_jax.options import from_flags

experiment.define_training_flags()
sweeps.define_sweep_flags()
flags.DEFINE_bool("compare", False, "also train a diagonal Gaussian VAE, in WORKDIR/gaussian")


def main() -> None:
    config = from_flags(avb.Config, flags.FLAGS)
    if flags.FLAGS.compare and config.encoder == "gaussian":
        raise ValueError("compare was given with encoder 'gaussian'; allowed is any other")
    several = [name for name in ("compare", "sweep", "distributed") if flags.FLAGS[name].value]
    if len(several) > 1:
        raise ValueError(f"{several[0]} was given with {several[1]}; allowed is one of them")
    workdir = experiment.workdir_of_flags(config)
    if flags.FLAGS.sweep:
        rows = sweeps.sweep(config, workdir, experiment.evaluation_settings())
        return print(reporting.sweep_table(rows))
    dataset = data.load_for(config)
    runs = {config.encoder: experiment.train_and_evaluate(config, workdir, dataset)}
    if flags.FLAGS.compare:
        vae = dataclasses.replace(config, **sweeps.VAES["gaussian"])
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
