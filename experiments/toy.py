"""The paper's four images: four one-pixel 2 × 2 images, D = 2, log p(x) exact by quadrature.

    python experiments/toy.py                                 # AVB, a quarter of an hour
    python experiments/toy.py --posteriors=all --num_steps=10000 --workdir=runs/four_images_all
    python experiments/toy.py --sweep=seed=0,1,2

trains into runs/four_images/POSTERIOR, evaluates, and writes sweep.jsonl, sweep.md and latent.png,
the latent spaces side by side, as in the paper's figure 5. The best possible log-likelihood is
−log 4 = −1.3863 nats (the paper: ~−1.403 by AVB, ~−1.568 by a VAE, neither checked against it); the
first command has −1.3892 (mean of ten seeds). The second compares every contrast and critic loss,
both Gaussian posteriors and a flow; it has another number of steps, and so a directory of its own.
"""

import math

from absl import flags

import avb_jax as avb
from avb_jax import experiment, reporting
from avb_jax import sweep as sweeps
from avb_jax.choices import CONTRASTS, CRITIC_LOSSES
from avb_jax.options import from_flags

POSTERIORS = {
    "avb": {},
    # They are told as much of log p(x, z) as AVB.
    **{name: {**changes, "survey": 16} for name, changes in sweeps.VAES.items()},
    **{
        f"{contrast}-{loss}": {"contrast": contrast, "critic_loss": loss}
        for contrast in CONTRASTS
        for loss in CRITIC_LOSSES
        if (contrast, loss) != ("moments", "logistic")  # that is avb
    },
}
METHODS = ("importance", "quadrature", "elbo", "latent")

# Critic and encoder are small and fast: many steps matter more here than wide layers.
experiment.define_training_flags(
    dataset="four_images",
    binarization="threshold",
    latent_dim=2,
    noise_dim=4,  # with two, q has more detail than the critic follows
    batch_size=4,
    encoder="noise-mlp",
    num_steps=50000,
    num_samples=128,
    decoder_samples=128,
    width=128,
    depth=3,
    head_width=32,
    head_depth=1,
    critic="informed",
    critic_width=64,
    critic_depth=3,
    critic_trunk_width=32,
    critic_trunk_depth=1,
    critic_steps=2,
    critic_samples=64,
    learning_rate=1e-3,
    critic_schedule="constant",
    steps_per_call=250,
)
sweeps.define_sweep_flags(POSTERIORS, "avb")


def check(config: avb.Config) -> None:
    if config.latent_dim > 2:
        raise ValueError(
            f"latent_dim was {config.latent_dim}; allowed are 1 and 2, where log p(x) is exact"
        )


def main() -> None:
    config = from_flags(avb.Config, flags.FLAGS)
    workdir = experiment.workdir_of_flags(config)
    settings = experiment.evaluation_settings(methods=METHODS)
    rows = sweeps.sweep(config, workdir, settings, POSTERIORS, check)
    print(f"{reporting.sweep_table(rows)}the best possible log p(x) is {-math.log(4.0):.4f}")
    for row in rows:
        if line := reporting.bracket_line(row["evaluation"]):
            print(f"{row['run']}: {line}")
    if planes := [row for row in rows if row["config"].get("latent_dim") == 2]:
        print(f"figure: {reporting.draw_latent_spaces(planes, workdir, workdir / 'latent.png')}")


if __name__ == "__main__":
    experiment.run_command(main)
