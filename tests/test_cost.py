"""XLA's count of the compiled step is the arithmetic of one forward pass of each network on z_q."""

import math
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import avb_jax as avb

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from arithmetic import flops_of, products_of  # noqa: E402

B, D, PIXELS, WIDTH, BASIS, BASES, DRAWS, SMALL = 64, 4, 64, 512, 64, 8, 512, 16
ELEMENTWISE = 0.08  # of the arithmetic, at most: activations, optimisers, moments


def dense(rows: int, *sizes: int, of_input: bool = True, backward: int = 1) -> int:
    """Forward, the weights' gradient, and `backward` times the inputs'; not the first's."""
    layers = [2 * rows * n * m for n, m in zip(sizes[:-1], sizes[1:], strict=True)]
    return (2 + backward) * sum(layers) - (0 if of_input else backward * layers[0])


def encoder(width: int) -> int:
    """`basis`: a trunk over x and its heads, a network of the noise alone."""
    heads = dense(B, width, D) + dense(B, width, D) + dense(B, width, D * D)
    of_noise = dense(DRAWS, D, BASIS, BASIS, BASES, of_input=False)
    trunk = dense(B, PIXELS, width, width, of_input=False)
    return trunk + heads + dense(B, width, D * BASES) + of_noise


def decoder(width: int) -> int:
    return dense(B, D, width, width, PIXELS) + 2 * dense(B, PIXELS, 1)  # and its likelihood


def critic(width: int, depth: int, trunk: int, features: int) -> int:
    """Draws of q are pulled back twice, once for ψ and once for z̃, those of r for ψ alone."""
    of_draws = [2 * B * 3 * D * width, *[2 * B * width * width] * depth, 2 * B * width]
    of_q, of_r = 4 * sum(of_draws) - of_draws[0], 3 * sum(of_draws) - of_draws[0]
    of_x = 2 * B * trunk * width * depth  # forward once; backward from q and from r
    of_trunk = 2 * B * features * trunk
    return of_q + of_r + 5 * of_x + 3 * of_trunk


@pytest.mark.parametrize("width,critic_width", [(WIDTH, SMALL), (SMALL, WIDTH)])
def test_each_network_runs_forward_once(width, critic_width):
    """Another forward pass of encoder, decoder or critic on z_q would be a seventh more.

    The matrix products of the step's jaxpr, of which the small ones over D are left out by hand,
    are within 2% of the hand count, XLA's operations of all kinds within `ELEMENTWISE`.
    """
    config = avb.Config(
        latent_dim=D, batch_size=B, width=width, num_bases=BASES, refinements=0, decoder_samples=1,
        critic_width=critic_width, critic_trunk_width=SMALL, critic_depth=2,
    )  # fmt: skip
    side = math.isqrt(PIXELS)
    model, optimizers = avb.build_model(config, (side, side, 1)), avb.build_optimizers(config)
    step = avb.make_train_step(model, optimizers, config)
    state = jax.eval_shape(partial(avb.init_state, model, optimizers), jax.random.key(0))
    images = np.zeros((B, side, side, 1), np.uint8)
    by_hand = encoder(width) + decoder(width) + critic(critic_width, 2, SMALL, width)
    products = flops_of(products_of(step, state, images))
    compiled = jax.jit(step).lower(state, images).compile().cost_analysis()["flops"]
    assert by_hand <= products <= 1.02 * by_hand
    assert products <= compiled <= (1.0 + ELEMENTWISE) * by_hand
