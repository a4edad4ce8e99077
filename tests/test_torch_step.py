"""The PyTorch step that ours is timed against does the same: its gradients are ours."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import avb_jax as avb
from avb_jax.optimizers import Optimizers

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import cases  # noqa: E402
import torch_avb  # noqa: E402
from torch_networks import of_flax  # noqa: E402

KEEP = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradient, state, params=None: (jax.tree.map(jnp.zeros_like, gradient), gradient),
)
SMALL = {
    "width": 16, "depth": 1, "num_bases": 4, "critic_width": 8, "critic_depth": 2,
    "critic_trunk_width": 8, "batch_size": 6, **cases.PLAIN,
}  # fmt: skip


@pytest.mark.parametrize("name", ["mlp", pytest.param("conv", marks=pytest.mark.slow), "posterior"])
def test_gradients_in_torch_are_ours(name):
    """float32, relative 1e-3 of each leaf's norm, away from the zeros that layers start from."""
    if name == "posterior":
        problem = cases.of_posterior(cases.eight_schools, 10, 64, 1).avb
        x = np.zeros((1, 1), np.float32)
    else:
        shape = (28, 28, 1) if name == "conv" else (8, 8, 1)
        problem = cases.of_images(shape, 1, latent_dim=3, decoder=name, **SMALL).avb
        x = np.random.default_rng(1).uniform(size=(6, *shape)).astype(np.float32)
    config, model = problem
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: np.asarray(p + 0.1 * rng.standard_normal(p.shape), np.float32),
        model.init(jax.random.key(0)),
    )
    key, vae = jax.random.key(2), (params.encoder, params.decoder)
    states = (KEEP.init(vae), KEEP.init(params.critic))
    state = avb.TrainState(jnp.zeros([], jnp.int32), key, params, states)
    step = avb.make_train_step(model, Optimizers(KEEP, KEEP), config)
    state, metrics = jax.jit(step)(state, x)
    (of_encoder, of_decoder), of_critic = state.opt_state

    _, key_q, key_r, _ = jax.random.split(jax.random.fold_in(key, 0), 4)
    posterior = name == "posterior"
    losses = torch_avb.build(config, model, params, torch_avb.eight_schools if posterior else None)
    keys = [key_q, key_r] if posterior else [*jax.random.split(key_q), key_r]
    noise = [
        torch.tensor(np.asarray(jax.random.normal(key, shape)))
        for key, shape in zip(keys, losses.noise_shapes, strict=True)
    ]
    both = torch.stack(losses(torch.tensor(x.reshape(len(x), -1)), *noise))
    both.sum().backward()
    expected = [-metrics["elbo_estimate"], metrics["critic_loss"]]
    np.testing.assert_allclose(both.detach(), expected, rtol=1e-4, atol=1e-4)
    parts = {"encoder": of_encoder, "decoder": of_decoder, "critic": of_critic["critic"]}
    for part, tree in parts.items():
        if not tree:
            continue
        module = getattr(losses, part)
        for name, expected in of_flax(module, tree).items():
            got, scale = module.get_parameter(name).grad, float(expected.norm())
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-3 * scale + 1e-6)
