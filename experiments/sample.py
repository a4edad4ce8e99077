"""Draws images from a trained run's prior: a PNG grid and an .npz of images and latents.

python experiments/sample.py --workdir=runs/digits
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags

import avb_jax as avb
from avb_jax import experiment, reporting

flags.DEFINE_string("workdir", None, "directory of the run", required=True)
flags.DEFINE_string("output", None, "path without suffix (unset: WORKDIR/samples)")
flags.DEFINE_integer("num_samples", 64, "images to draw", lower_bound=1)
flags.DEFINE_integer("seed", 0, "of the draws", lower_bound=0)


def main() -> None:
    run = avb.load(flags.FLAGS.workdir)
    count = flags.FLAGS.num_samples
    key = jax.random.key(flags.FLAGS.seed)
    z = jax.random.normal(key, (count, 1, run.model.latent_dim))
    images = np.asarray(run.model.decode_mean(run.params, z))[:, 0]
    output = Path(flags.FLAGS.output or Path(flags.FLAGS.workdir) / "samples")
    output.parent.mkdir(parents=True, exist_ok=True)
    arrays, picture = (output.with_name(output.name + end) for end in (".npz", ".png"))
    np.savez(arrays, images=images, z=np.asarray(z)[:, 0])
    columns = int(np.ceil(np.sqrt(count)))
    grid = reporting.image_grid(reporting.resize(images, 72), columns, gap=4)
    reporting.save_png(picture, grid)
    print(f"{count} images (pixel means): {picture} and {arrays}")


if __name__ == "__main__":
    experiment.run_command(main)
