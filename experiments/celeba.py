"""CelebA's faces at 64 × 64 (paper, section 6.2): convolutions, D = 64, 8-bit pixels.

    python experiments/celeba.py --data_dir=DIR        # a GPU's work, some hours
    python experiments/celeba.py --dataset=FILE.npy --num_steps=20 --batch_size=8

trains into runs/celeb_a, with samples, reconstructions and interpolations in figures/, and
evaluates. The second takes uint8 images [n, 64, 64, 3] of your own, a few of which try it out. The
paper shows samples and no likelihood; a bound in nats here is of 12,288 8-bit values an image. Of
faces none was measured yet.
"""

from absl import flags

import avb_jax as avb
from avb_jax import data, experiment, reporting
from avb_jax.options import from_flags

experiment.define_training_flags(
    dataset="celeb_a",
    binarization="none",
    likelihood="logistic",
    latent_dim=64,
    trunk="conv",
    decoder="conv",
    width=1024,
    decoder_samples=1,
    num_steps=200_000,
    learning_rate=3e-4,
    critic_learning_rate=3e-4,
    warmup_steps=1000,
    clip_norm=1000.0,
    ema_decay=0.999,
    steps_per_call=20,
    figure_interval=600.0,
)


def main() -> None:
    config = from_flags(avb.Config, flags.FLAGS)
    workdir = experiment.workdir_of_flags(config)
    settings = experiment.evaluation_settings(methods=("importance",), batch_size=10)
    entries = experiment.train_and_evaluate(config, workdir, data.load_for(config), settings)
    print(reporting.evaluation_table(entries))
    print(f"figures: {workdir / 'figures'}")


if __name__ == "__main__":
    experiment.run_command(main)
