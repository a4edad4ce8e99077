"""What can be chosen of a run: the fields of `Config`, and the values of those that have names."""

import dataclasses

from avb_jax.options import option

DATASETS = (
    "digits",
    "four_images",
    "mnist",
    "fashion_mnist",
    "binarized_mnist",
    "omniglot",
    "kmnist",
    "cifar10",
    "celeb_a",
)
DATA_LOADING = ("auto", "memory", "stream")
BINARIZATIONS = ("dynamic", "static", "threshold", "none")
LIKELIHOODS = ("bernoulli", "gaussian", "logistic")
IMPLICIT_ENCODERS = ("noise-mlp", "noise-conv", "basis")
EXPLICIT_ENCODERS = ("gaussian", "gaussian-full", "iaf")
ENCODERS = IMPLICIT_ENCODERS + EXPLICIT_ENCODERS
TRUNKS = ("mlp", "conv")
DECODERS = ("mlp", "conv")
CRITICS = ("residual", "informed", "inner-product", "unconditional")
CONTRASTS = ("prior", "moments", "learned")
COVARIANCES = ("full", "diagonal")
CRITIC_LOSSES = ("logistic", "exp", "exp_as_written")
UPDATES = ("simultaneous", "alternating")
SCHEDULES = ("constant", "cosine")
DTYPES = ("float32", "bfloat16")
OPTIMIZER_STATES = ("replicated", "sharded")
REMATERIALIZED = ("nothing", "decoder")


@dataclasses.dataclass(frozen=True)
class DataChoices:
    """The data, and what a pixel is."""

    dataset: str = option(
        "digits", f"data set: {', '.join(DATASETS)}, or FILE.npz or FILE.npy of uint8 images"
    )
    data_dir: str | None = option(
        None, "directory of prepared TFDS data sets (unset: TFDS's own)", same_run=True
    )
    data_loading: str = option(
        "auto", "images in memory, or read when they are needed; auto: in memory up to the limit",
        choices=DATA_LOADING, same_run=True,
    )  # fmt: skip
    memory_limit_gb: float = option(
        4.0, "of images that data_loading=auto keeps in memory", above=0.0, same_run=True
    )
    data_workers: int = option(
        0,
        "processes that read streamed images ahead; 0: threads of this one",
        at_least=0,
        same_run=True,
    )
    binarization: str = option(
        "dynamic",
        "pixels to {0, 1}: drawn anew at each use, drawn once, cut at one half, or left in [0, 1]",
        choices=BINARIZATIONS,
    )
    likelihood: str = option(
        "bernoulli", "p(x|z); gaussian and logistic need --binarization=none", choices=LIKELIHOODS
    )


@dataclasses.dataclass(frozen=True)
class NetworkChoices:
    """Encoder and decoder, and the draws of q(z|x) that a step takes."""

    latent_dim: int = option(8, "D, dimension of z", at_least=1)
    noise_dim: int | None = option(None, "N, dimension of ε (unset: D)", at_least=1)
    encoder: str = option("basis", "q(z|x); the last three are explicit", choices=ENCODERS)
    trunk: str = option("mlp", "network of x in the encoder", choices=TRUNKS)
    decoder: str = option("mlp", "network of p(x|z)", choices=DECODERS)
    width: int = option(512, "units of each dense hidden layer, encoder and decoder", at_least=1)
    depth: int = option(2, "hidden layers of each MLP, encoder and decoder", at_least=1)
    channels: int = option(
        32, "features of the convolution next to the image; deeper ones have 2 to 4 times as many",
        at_least=1,
    )  # fmt: skip
    head_width: int = option(
        128, "units of each layer of noise-mlp's head, or of iaf's steps", at_least=1
    )
    head_depth: int = option(2, "residual layers of noise-mlp's head", at_least=1)
    refinements: int | None = option(
        None,
        "times the encoder asks the decoder for the gradient of log p(x, z) at its guess of z "
        "(unset: 1 for noise-mlp and basis where D > 2, else 0)",
        at_least=0,
    )
    survey: int | None = option(
        None,
        "points a side of a grid over the prior on which the encoder is told log p(x, z) before it "
        "guesses z, where D <= 2; 0: none (unset: 16 for noise-mlp and basis)",
        at_least=0,
    )
    num_bases: int = option(16, "K, noise bases of --encoder=basis", at_least=1)
    num_samples: int | None = option(
        None,
        "S, draws of q per data point and step (unset: 3 D, at least 16, where moments come "
        "from the draws, else those that are decoded)",
        at_least=1,
    )
    decoder_samples: int | None = option(
        None,
        "of the S draws, how many are decoded, in mirrored pairs where q allows it (unset: 4 for "
        "an implicit encoder, else 1)",
        at_least=1,
    )


@dataclasses.dataclass(frozen=True)
class CriticChoices:
    """The critic, the contrast that it judges q against, and how the two players move."""

    critic_samples: int | None = option(
        None, "of the S draws, how many the critic sees (unset: all)", at_least=1
    )
    critic: str = option(
        "residual", "network of s(x, z); `informed` is told log p(x|z)", choices=CRITICS
    )
    critic_width: int = option(128, "units of each layer of the critic", at_least=1)
    critic_depth: int = option(4, "layers of the critic over z", at_least=1)
    critic_trunk_width: int = option(256, "units of the critic's layers over x", at_least=1)
    critic_trunk_depth: int = option(1, "the critic's layers over x", at_least=1)
    contrast: str | None = option(
        None,
        "r(z|x), what the critic compares q with (unset: moments; an explicit encoder has its "
        "exact KL to the prior)",
        choices=CONTRASTS,
    )
    covariance: str = option("full", "of the moments contrast", choices=COVARIANCES)
    critic_loss: str = option("logistic", "the critic's objective", choices=CRITIC_LOSSES)
    critic_steps: int = option(1, "critic updates for each update of the VAE", at_least=1)
    update: str = option(
        "simultaneous", "both players from the same point, or the critic first", choices=UPDATES
    )


@dataclasses.dataclass(frozen=True)
class TrainingChoices:
    """Optimisation, and what a run leaves behind."""

    seed: int = option(0, "of every random number", at_least=0, below=2**32)
    num_steps: int = option(1000, "optimiser steps", at_least=1)
    batch_size: int = option(128, "B, images a step", at_least=1)
    microbatches: int = option(
        1, "parts of the batch whose gradients are taken one after another, to save memory",
        at_least=1,
    )  # fmt: skip
    compute_dtype: str = option(
        "float32", "of hidden layers; parameters, moments and losses are float32", choices=DTYPES
    )
    rematerialize: str = option(
        "nothing", "decoder: its draws one after another, each decoded again in the backward pass",
        choices=REMATERIALIZED, same_run=True,
    )  # fmt: skip
    optimizer_state: str = option(
        "replicated", "whole on every device, or a part on each", choices=OPTIMIZER_STATES,
        same_run=True,
    )  # fmt: skip
    learning_rate: float = option(2e-3, "of encoder and decoder (Adam)", above=0.0)
    critic_learning_rate: float = option(1e-3, "of the critic (Adam)", above=0.0)
    schedule: str = option("cosine", "of the learning rate, after warm-up", choices=SCHEDULES)
    critic_schedule: str | None = option(
        None, "of the critic's learning rate (unset: as --schedule)", choices=SCHEDULES
    )
    warmup_steps: int = option(20, "steps of linear learning-rate warm-up", at_least=0)
    kl_warmup_steps: int = option(0, "steps over which the KL's weight grows to 1", at_least=0)
    ema_decay: float = option(
        0.0, "of the averaged encoder and decoder that evaluation uses; 0: none",
        at_least=0.0, below=1.0,
    )  # fmt: skip
    weight_decay: float = option(
        0.0, "of the kernels of encoder and decoder, in each step times the learning rate (AdamW)",
        at_least=0.0,
    )  # fmt: skip
    clip_norm: float = option(
        0.0, "global norm each player's gradient is clipped to; 0: not clipped", at_least=0.0
    )
    steps_per_call: int = option(100, "whole steps in one device call", at_least=1)
    checkpoint_interval: float = option(
        60.0, "seconds between checkpoints", above=0.0, same_run=True
    )
    keep_checkpoints: int = option(
        3, "how many of the newest checkpoints stay", at_least=1, same_run=True
    )
    figure_interval: float = option(60.0, "seconds between figures", above=0.0, same_run=True)
