"""Fashion-MNIST, clothes of 28 × 28, binarised as MNIST is, by the code of experiments/mnist.py.

    python experiments/fashion_mnist.py --data_dir=DIR
    python experiments/fashion_mnist.py --data_dir=DIR --latent_dim=32 --workdir=runs/fashion-d32

The flags, run times and files are those of experiments/mnist.py, in runs/fashion_mnist. With D = 8
and --num_steps=10000 log p(x) is at least −229.6 by AVB on 1,000 test images, in 17 minutes of a
core beside other jobs, and −231.6 by a full-covariance VAE, in three: docs/results.md.
"""

from mnist import define_flags, main

from avb_jax import experiment

if __name__ == "__main__":
    define_flags("fashion_mnist")
    experiment.run_command(main)
