"""Evaluates a trained run: everything but the flags here is read from its directory.

    python experiments/evaluate.py --workdir=runs/digits

prints the log-likelihood of the test images and writes evaluation.json.
"""

from pathlib import Path

from absl import flags

import avb_jax as avb
from avb_jax import data, experiment, reporting

flags.DEFINE_string("workdir", None, "directory of the run", required=True)
flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "images to evaluate")
flags.DEFINE_string("data_dir", None, "directory of prepared TFDS data sets (unset: the run's)")
experiment.define_evaluation_flags()


def main() -> None:
    workdir = Path(flags.FLAGS.workdir)
    run = avb.load(workdir)
    dataset = data.load(
        run.config.dataset,
        data_dir=flags.FLAGS.data_dir or run.config.data_dir,
        binarization=run.config.binarization,
    )
    entries = experiment.evaluate(run, dataset, workdir, flags.FLAGS.split)
    figures = experiment.draw(run, dataset, workdir)
    print(f"\n{run.config.dataset}, {flags.FLAGS.split} split, step {run.step}")
    print(reporting.evaluation_table(entries))
    experiment.print_remarks(run.config, entries)
    print(f"figures: {figures[0].parent}")


if __name__ == "__main__":
    experiment.run_command(main)
