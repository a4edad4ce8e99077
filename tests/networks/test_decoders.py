"""Decoders fill exactly the event shape, whatever its size, and every pixel depends on z."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax.networks.decoders import ConvDecoder, MLPDecoder, PixelScale
from avb_jax.networks.layers import downsampled_sizes

FLOOR = 1.0 / 1024.0  # a quarter of one of a pixel's 256 levels
SIDES = [(28, 28), (32, 32), (64, 64), (8, 8), (2, 2), (27, 33), (1, 30)]
Z = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def build(name: str, event_shape: tuple[int, int, int]) -> nn.Module:
    if name == "mlp":
        return MLPDecoder(event_shape, width=16, depth=1)
    return ConvDecoder(event_shape, width=16, channels=8)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_output_has_the_event_shape(name, sides, random_params):
    channels = 1 if max(sides) > 30 else 3
    decoder = build(name, (*sides, channels))
    logits = np.asarray(jax.jit(decoder.apply)(random_params(decoder, Z), Z))
    assert logits.shape == (5, *sides, channels)
    assert logits.dtype == np.float32 and np.all(np.isfinite(logits))
    # Every pixel of every channel changes with z: none is padding or left over by a crop.
    assert np.min(np.std(logits, axis=0)) > 1e-4
    # Shapes alone for the other number of channels.
    other = build(name, (*sides, 4 - channels))
    shape = jax.eval_shape(lambda: other.init_with_output(jax.random.key(0), Z)[0]).shape
    assert shape == (5, *sides, 4 - channels)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_rows_are_independent_and_in_the_dtype_of_z(name, random_params):
    decoder = build(name, (9, 10, 1))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: p.astype(np.float64), random_params(decoder, Z))
        z = Z.astype(np.float64)
        decode = jax.jit(decoder.apply)
        together, swapped = np.asarray(decode(params, z)), np.asarray(decode(params, z[::-1]))
        gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(decode(p, z)))))(params)
    assert together.dtype == np.float64
    np.testing.assert_allclose(swapped, together[::-1], rtol=1e-10)
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf)) and np.max(np.abs(leaf)) > 1e-6


def test_sizes_are_halved_to_eight_at_most():
    assert downsampled_sizes(28, 28) == [(28, 28), (14, 14), (7, 7)]
    assert downsampled_sizes(32, 32) == [(32, 32), (16, 16), (8, 8)]
    assert len(downsampled_sizes(64, 64)) == 4
    assert downsampled_sizes(8, 8) == [(8, 8)]
    assert downsampled_sizes(27, 33) == [(27, 33), (14, 17), (7, 9), (4, 5)]
    assert downsampled_sizes(1, 30)[-1] == (1, 8)


def test_pixel_scale_is_one_per_channel_with_a_floor():
    decoder = PixelScale(build("mlp", (4, 4, 3)), channels=3)
    params = jax.jit(decoder.init)(jax.random.key(0), Z)["params"]
    apply = jax.jit(decoder.apply)
    location, log_scale = apply({"params": params}, Z)
    np.testing.assert_allclose(np.exp(log_scale), np.full(3, 0.1 + FLOOR), rtol=1e-5)
    logits = np.asarray(decoder.decoder.apply({"params": params["decoder"]}, Z))
    np.testing.assert_allclose(location, 1.0 / (1.0 + np.exp(-logits)), rtol=1e-5)

    scales = np.array([1e-6, 0.01, 2.0], np.float32)

    def scale(log_scales):
        return jnp.exp(apply({"params": {**params, "log_scale": log_scales}}, Z)[1])

    np.testing.assert_allclose(scale(np.log(scales)), scales + FLOOR, rtol=1e-5)
    slope = jax.grad(lambda log_scales: jnp.sum(scale(log_scales)))(np.log(scales))
    np.testing.assert_allclose(slope, scales, rtol=1e-4)  # not zero anywhere, as a clamp's is
