"""What the tests of all networks share."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from avb_jax.types import Answers


@pytest.fixture(scope="session")
def random_params():
    """(module, *arguments of its call) -> parameters none of which is zero, not even a bias."""

    def make(module: nn.Module, *args, gain: float = 1.0):
        rng = np.random.default_rng(0)
        static = [arg for arg in args if isinstance(arg, (int, Answers))]
        arrays = [arg for arg in args if not isinstance(arg, (int, Answers))]
        shapes = jax.eval_shape(lambda *a: module.init(jax.random.key(0), *a, *static), *arrays)

        def fill(leaf):
            fan_in = max(1, int(np.prod(leaf.shape[-2:-1])))
            return (gain * rng.normal(size=leaf.shape) / fan_in**0.5).astype(leaf.dtype)

        return jax.tree.map(fill, shapes)

    return make
