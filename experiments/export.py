"""Writes a trained run's weights, with its configuration, as one safetensors file.

    python experiments/export.py --workdir=runs/digits

writes weights.safetensors, which avb.load("weights.safetensors") turns into the run again, and
which any software that reads safetensors can read.
"""

from pathlib import Path

import jax
from absl import flags

import avb_jax as avb
from avb_jax import experiment

flags.DEFINE_string("workdir", None, "directory of the run", required=True)
flags.DEFINE_string("output", None, "path of the file (unset: WORKDIR/weights.safetensors)")


def main() -> None:
    run = avb.load(flags.FLAGS.workdir)
    path = Path(flags.FLAGS.output or Path(flags.FLAGS.workdir) / "weights.safetensors")
    avb.save_weights(run, path)
    count = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    print(f"{count:,} parameters of step {run.step}: {path}")


if __name__ == "__main__":
    experiment.run_command(main)
