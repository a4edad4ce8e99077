"""One step, compiled for several devices in both ways."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avb_jax as avb
from avb_jax.step import TrainState

CONFIG = avb.Config(
    encoder="gaussian",
    latent_dim=2,
    width=8,
    depth=1,
    batch_size=8,
    binarization="threshold",
    num_steps=50,
)
AVB = {
    "encoder": "noise-mlp",
    "critic_steps": 2,
    "critic_width": 8,
    "critic_depth": 1,
    "critic_trunk_width": 8,
    "critic_trunk_depth": 1,
    "head_width": 8,
    "head_depth": 1,
}
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1), dtype=np.uint8)


def without_noise() -> avb.Model:
    """The explicit model of CONFIG whose one draw of q is its mean."""
    model = avb.build_model(CONFIG, (2, 2, 1))

    def encode(params, key, x, num_samples):
        density = model.encode(params, key, x, 1).density
        z = jnp.broadcast_to(density.mean, (num_samples, *density.mean.shape))
        return avb.Encoding(z, density=density)

    return model._replace(encode=encode)


def trained(
    model: avb.Model, mode: str | None, steps: int = 3, config: avb.Config = CONFIG
) -> TrainState:
    optimizers = avb.build_optimizers(config)
    state = avb.init_state(model, optimizers, jax.random.key(0))
    step = avb.make_train_step(model, optimizers, config)
    compiled = jax.jit(step) if mode is None else avb.compile_step(step, mode)
    for _ in range(steps):
        state, metrics = compiled(state, IMAGES)
    assert np.isfinite(metrics["elbo_estimate"])
    return state


def test_there_are_four_devices():
    assert jax.local_device_count() == 4


@pytest.mark.parametrize("options", [{}, AVB], ids=["gaussian", "noise-mlp"])
def test_four_devices_under_jit_agree_with_one(options):
    """Noise is drawn globally: the same whatever the number of devices; rounding apart."""
    config = dataclasses.replace(CONFIG, **options)
    model = avb.build_model(config, (2, 2, 1))
    one, four = (trained(model, mode, config=config) for mode in (None, "jit"))
    chex.assert_trees_all_close(one.params, four.params, rtol=1e-3, atol=1e-5)


def test_avb_steps_under_pmap():
    config = dataclasses.replace(CONFIG, **AVB)
    state = trained(avb.build_model(config, (2, 2, 1)), "pmap", config=config)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_pmap_agrees_with_jit_where_there_is_no_noise():
    model = without_noise()
    jitted, mapped = trained(model, "jit"), trained(model, "pmap")
    chex.assert_trees_all_close(jitted.params, mapped.params, rtol=1e-4, atol=1e-6)
    assert int(mapped.step) == 3


def test_pmap_draws_other_noise_on_each_device():
    """Its ELBO is the mean over devices, each with its own fold of the step's key."""
    model = avb.build_model(CONFIG, (2, 2, 1))
    optimizers = avb.build_optimizers(CONFIG)
    step = avb.make_train_step(model, optimizers, CONFIG)
    state = avb.init_state(model, optimizers, jax.random.key(0))
    x = (IMAGES > 127).astype(np.float32)
    expected = []
    for device in range(4):
        key = jax.random.fold_in(jax.random.fold_in(state.key, 0), device)
        _, key_q, _, _ = jax.random.split(key, 4)
        shard = x[2 * device : 2 * device + 2]
        encoding = model.encode(state.params, key_q, shard, 1)
        outputs = model.decode(state.params.decoder, encoding.z)
        kl = avb.objectives.kl_to_prior(encoding.density)
        expected.append(jnp.mean(model.log_likelihood(outputs, shard)) - jnp.mean(kl))
    _, metrics = avb.compile_step(step, "pmap")(state, IMAGES)
    np.testing.assert_allclose(metrics["elbo_estimate"], np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_fused_steps_take_the_batch_axis(mode):
    model = without_noise()
    optimizers = avb.build_optimizers(CONFIG)
    fused = avb.fuse_steps(avb.make_train_step(model, optimizers, CONFIG))
    state = avb.init_state(model, optimizers, jax.random.key(0))
    state, metrics = avb.compile_step(fused, mode, batch_axis=1)(state, np.stack([IMAGES] * 3))
    assert metrics["elbo_estimate"].shape == (3,)
    chex.assert_trees_all_close(state.params, trained(model, "jit").params, rtol=1e-4, atol=1e-6)


def test_wrong_arguments():
    step = avb.make_train_step(without_noise(), avb.build_optimizers(CONFIG), CONFIG)
    with pytest.raises(ValueError, match="mode was 'xmap'; allowed are jit, pmap"):
        avb.compile_step(step, "xmap")
    with pytest.raises(ValueError, match="multiples of the 4 devices"):
        avb.compile_step(step)(None, IMAGES[:6])
