"""Serves a page on this machine, on which to move through a run's latent space.

    python experiments/explore.py --workdir=runs/digits

prints its address: sliders over z and what it decodes to, draws of q(z|x) of a test image, and
those of the Gaussian of the same moments, and of the run in WORKDIR/gaussian where there is one.
It needs Panel: pip install -e ".[explore]".
"""

import dataclasses
from pathlib import Path

import numpy as np
from absl import flags

import avb_jax as avb
from avb_jax import data, experiment
from avb_jax.explorer.draws import Explorer

flags.DEFINE_string("workdir", None, "directory of the run", required=True)
flags.DEFINE_string("data_dir", None, "directory of prepared TFDS data sets (unset: the run's)")
flags.DEFINE_integer("images", 100, "test images to choose from, the first", lower_bound=1)
flags.DEFINE_integer("port", 5006, "of 127.0.0.1", lower_bound=1, upper_bound=65535)


def main() -> None:
    try:
        import panel

        from avb_jax.explorer.page import build_page
    except ImportError as error:
        raise ValueError(
            f"explore needs Panel ({error}); pip install -e '.[explore]' brings it"
        ) from None
    workdir, port = Path(flags.FLAGS.workdir), flags.FLAGS.port
    run, beside = avb.load(workdir), workdir / "gaussian"
    data_dir = flags.FLAGS.data_dir or run.config.data_dir
    dataset = data.load_for(dataclasses.replace(run.config, data_dir=data_dir))
    images = np.asarray(experiment.preprocess(dataset.test, run.config, flags.FLAGS.images)[:])
    vae = Explorer(avb.load(beside)) if (beside / "config.json").exists() else None
    explorer, title = Explorer(run), f"Run {workdir.resolve().name}"

    def page() -> panel.Column:  # Panel calls a function, and no other callable, for each visitor
        return build_page(explorer, images, vae, title)

    print(f"http://127.0.0.1:{port}  (Ctrl-C ends it)", flush=True)
    try:
        panel.serve(page, port, address="127.0.0.1", show=False, title=title, verbose=False)
    except OSError as error:
        raise ValueError(f"port was {port}, which cannot be used: {error}") from None


if __name__ == "__main__":
    experiment.run_command(main)
