"""Adversarial Variational Bayes in JAX: implicit posteriors whose log-density a critic learns."""

from avb_jax import contrast, evaluation, objectives
from avb_jax.config import Config
from avb_jax.model import Model, build_model
from avb_jax.optimizers import Optimizers, build_optimizers
from avb_jax.parallel import compile_step
from avb_jax.step import TrainState, fuse_steps, init_state, make_train_step
from avb_jax.training import Run, load, train
from avb_jax.types import Encoding, Gaussian, Moments, Params
