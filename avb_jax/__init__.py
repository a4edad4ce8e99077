"""Adversarial Variational Bayes in JAX: implicit posteriors whose log-density a critic learns."""

from avb_jax import contrast, data, evaluation, objectives, posterior
from avb_jax.config import Config
from avb_jax.critic_fit import Calibration, CriticFit, fit_critic
from avb_jax.model import Model, build_model
from avb_jax.optimizers import Optimizers, build_optimizers
from avb_jax.parallel import compile_step
from avb_jax.run import Run, load, save_weights
from avb_jax.step import TrainState, fuse_steps, init_state, make_train_step
from avb_jax.training import train
from avb_jax.types import Encoding, Gaussian, Kernel, Moments, Params, View
from avb_jax.workdir import Preempted

__all__ = [
    "Calibration",  # how far a fitted critic is to be trusted
    "Config",  # every choice of a run, validated
    "CriticFit",  # log q̂ of a sampler, with its calibration
    "Encoding",  # what an encoder returns: draws of q(z|x), and what it knows of q
    "Gaussian",  # N(mean, scale_tril scale_trilᵀ), one for each data point
    "Kernel",  # q(z|x, ε), the Gaussian that ends a semi-implicit encoder
    "Model",  # encoder, decoder, critic as pure functions; build your own freely
    "Moments",  # mean and covariance of q(z|x)
    "Optimizers",  # two optax transformations: (vae, critic)
    "Params",  # (encoder, decoder, critic)
    "Preempted",  # what `train` raises after SIGTERM, once its state is saved
    "Run",  # a run, ready to use
    "TrainState",  # arrays only: step, key, params, two optax states
    "View",  # what a critic may know beside the draws it judges
    "build_model",  # Config, event shape -> Model
    "build_optimizers",  # Config -> Optimizers
    "compile_step",  # a pure step, compiled for any number of devices
    "contrast",  # r(z|x): moments, whitening, log-density
    "data",  # named data sets, batches, binarisation
    "evaluation",  # likelihoods
    "fit_critic",  # log q of any sampler, learned from its draws to convergence
    "fuse_steps",  # K steps in one device call
    "init_state",  # Model, Optimizers, key -> TrainState
    "load",  # a run from its directory, or from a file of its weights
    "make_train_step",  # the fused saddle-point step: (state, batch) -> (state, metrics)
    "objectives",  # critic losses and the ELBO's terms on plain arrays
    "posterior",  # the same engine for a log joint density of your own, or a NumPyro model
    "save_weights",  # a run as one safetensors file
    "train",  # the loop: metrics, checkpoints, resume
]
