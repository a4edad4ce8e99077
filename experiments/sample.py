"""Draws images from a trained run's prior, and moves through its latent space.

    python experiments/sample.py --workdir=runs/digits

writes samples.npz (images, and the z they are decoded from), samples.png, a grid of the draws, and
samples_traversals.png: each latent moved over the prior, or, for D = 2, the whole plane.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import avb_jax as avb
from avb_jax import experiment, reporting

flags.DEFINE_string("workdir", None, "directory of the run", required=True)
flags.DEFINE_string("output", None, "path without suffix (unset: WORKDIR/samples)")
flags.DEFINE_integer("num_samples", 64, "images to draw", lower_bound=1)
flags.DEFINE_integer("seed", 0, "of the draws", lower_bound=0, upper_bound=2**32 - 1)


def main() -> None:
    workdir, count = Path(flags.FLAGS.workdir), flags.FLAGS.num_samples
    run = avb.load(workdir)
    z = jax.random.normal(jax.random.key(flags.FLAGS.seed), (count, 1, run.model.latent_dim))
    images = np.asarray(run.model.decode_mean(run.params, z))[:, 0]
    centre, test_image = reporting.traversal_centre(workdir, run.model.latent_dim)
    points = reporting.traversal_points(centre)
    traversals = np.asarray(run.model.decode_mean(run.params, jnp.asarray(points)))

    output = Path(flags.FLAGS.output or workdir / "samples")
    output.parent.mkdir(parents=True, exist_ok=True)
    ends = (".npz", ".png", reporting.TRAVERSALS)
    arrays, picture, moved = (output.with_name(output.name + end) for end in ends)
    z_drawn = np.asarray(z)[:, 0]
    np.savez(arrays, images=images, z=z_drawn, traversals=traversals, traversal_z=points)
    columns = int(np.ceil(np.sqrt(count)))
    grid = reporting.image_grid(reporting.resize(images, 72), columns, gap=4)
    reporting.save_png(picture, grid)
    reporting.draw_traversals(traversals, points, test_image, workdir, moved)
    print(f"{count} images (pixel means): {picture} and {arrays}")
    print(f"latent traversals: {moved}")


if __name__ == "__main__":
    experiment.run_command(main)
