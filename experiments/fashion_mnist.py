"""Fashion-MNIST, clothes of 28 × 28, binarised as MNIST is, by the code of experiments/mnist.py.

    python experiments/fashion_mnist.py --data_dir=DIR
    python experiments/fashion_mnist.py --data_dir=DIR --latent_dim=32 --workdir=runs/fashion-d32

The flags, run times and files are those of experiments/mnist.py, in runs/fashion_mnist.
"""

from mnist import define_flags, main

from avb_jax import experiment

if __name__ == "__main__":
    define_flags("fashion_mnist")
    experiment.run_command(main)
