"""Convolutions in their fast form are those of Flax, forward and backward, of any order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from avb_jax.networks.layers import Convolution, convolve

FLAX = {
    "same": nn.Conv(3, (5, 5)),
    "double": nn.ConvTranspose(3, (5, 5), strides=(2, 2)),
    "halve": nn.Conv(3, (5, 5), strides=2),
}


@pytest.mark.parametrize(
    "sides", [(7, 5), *(pytest.param(s, marks=pytest.mark.slow) for s in [(8, 8), (6, 9), (1, 2)])]
)
@pytest.mark.parametrize("resize", list(FLAX))
def test_convolutions_are_those_of_flax(resize, sides):
    """float64, relative 1e-9 of the largest: outputs, gradients, and a gradient's gradients.

    Of 18 images, which is more than one part of them.
    """
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        h = rng.normal(size=(18, *sides, 4))
        ours = Convolution(3, resize)
        params = ours.init(jax.random.key(0), h.astype(np.float32))
        params = jax.tree.map(lambda p: rng.normal(size=p.shape), params)

        def total(module, params, h):
            return jnp.sum(jnp.sin(module.apply(params, h)))

        def slope(module, params, h):
            of_params, of_h = jax.grad(total, (1, 2))(module, params, h)
            return sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves((of_params, of_h)))

        for function in (lambda m, p, h: m.apply(p, h), jax.grad(total, (1, 2)),
                         jax.grad(slope, (1, 2))):  # fmt: skip
            got, expected = (function(module, params, h) for module in (ours, FLAX[resize]))
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * np.max(np.abs(b)))


def test_images_stay_on_their_devices():
    """A kernel's gradient is summed over devices; no images are sent from one to another."""
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(AxisType.Auto,))
    h = jnp.asarray(np.random.default_rng(0).normal(size=(32, 6, 6, 3)), jnp.float32)
    kernel = jnp.ones((3, 3, 3, 2))

    def total(kernel, h):
        return jnp.sum(jnp.square(convolve(h, kernel, (1, 1))))

    split = jax.device_put(h, NamedSharding(mesh, PartitionSpec("devices")))
    compiled = jax.jit(jax.grad(total)).lower(kernel, split).compile()
    assert "all-gather" not in compiled.as_text()
    np.testing.assert_allclose(compiled(kernel, split), jax.grad(total)(kernel, h), rtol=1e-4)
