"""Omniglot, characters of 50 alphabets at 28 × 28, by the code of experiments/mnist.py.

    python experiments/omniglot.py --data_dir=DIR
    python experiments/omniglot.py --data_dir=DIR --latent_dim=32 --workdir=runs/omniglot-d32

The flags, run times and files are those of experiments/mnist.py, in runs/omniglot.
Train and test are the data set's own alphabets, and not the 24,345 and 8,070 images of Burda et al.
(2016): likelihoods do not compare with published ones, and none was measured here yet.
"""

from mnist import define_flags, main

from avb_jax import experiment

if __name__ == "__main__":
    define_flags("omniglot")
    experiment.run_command(main)
