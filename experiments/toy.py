"""The paper's four images: four one-pixel 2 × 2 images, D = 2, log p(x) exact by quadrature.

    python experiments/toy.py                # one run, runs/four_images
    python experiments/toy.py --seeds=5      # seeds 0 to 4, runs/four_images-0 to -4

The best possible log-likelihood is −log 4 = −1.3863 nats; figures/posteriors.png shows the
four posteriors tiling the prior. Run time and numbers: README, "Results".
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
from absl import flags

import avb_jax as avb
from avb_jax import data, experiment, reporting
from avb_jax.options import from_flags

# Critic and encoder are small and fast: many steps matter more here than wide layers.
experiment.define_training_flags(
    dataset="four_images",
    binarization="threshold",
    latent_dim=2,
    batch_size=4,
    encoder="noise-mlp",
    refinements=1,
    num_steps=30000,
    num_samples=128,
    decoder_samples=128,
    width=128,
    head_width=32,
    head_depth=1,
    critic="informed",
    critic_width=64,
    critic_depth=3,
    critic_trunk_width=32,
    critic_trunk_depth=1,
    critic_steps=3,
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
    ema_decay=0.999,
    steps_per_call=250,
)
flags.DEFINE_integer("seeds", 1, "runs, with seeds from --seed on", lower_bound=1)


def main() -> None:
    config = from_flags(avb.Config, flags.FLAGS)
    if config.latent_dim > 2:
        raise ValueError(
            f"latent_dim was {config.latent_dim}; allowed are 1 and 2, where log p(x) is exact"
        )
    dataset = data.load_for(config)
    base = Path(flags.FLAGS.workdir or "runs/four_images")
    runs, exact = {}, []
    for seed in range(config.seed, config.seed + flags.FLAGS.seeds):
        workdir = base if flags.FLAGS.seeds == 1 else base.with_name(f"{base.name}-{seed}")
        entries = experiment.train_and_evaluate(
            dataclasses.replace(config, seed=seed), workdir, dataset
        )
        runs[str(workdir)] = entries
        print(reporting.bracket_line(entries))
        exact += [
            entry["value"]
            for entry in entries
            if (entry["name"], entry["kind"]) == ("log_likelihood", "exact")
        ]
    print(reporting.comparison_table(runs))
    print(
        f"exact log-likelihood: {np.mean(exact):.4f} nats on average, {np.min(exact):.4f} at "
        f"least; the best possible is {-math.log(4.0):.4f}"
    )


if __name__ == "__main__":
    experiment.run_command(main)
