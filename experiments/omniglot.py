"""Omniglot, characters of 50 alphabets at 28 × 28, by the code of experiments/mnist.py.

    python experiments/omniglot.py --data_dir=DIR
    python experiments/omniglot.py --data_dir=DIR --latent_dim=32 --posteriors=avb,iaf

The flags, run times and files are those of experiments/mnist.py, in runs/omniglot.
"""

from mnist import define_flags, main

from avb_jax import experiment

if __name__ == "__main__":
    define_flags("omniglot")
    experiment.run_command(main)
