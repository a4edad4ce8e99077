"""What importance weights say: their mean in log-space, their effective number and their tail."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax.evaluation import pareto_k
from avb_jax.evaluation.weights import mean_weight


@pytest.mark.parametrize("block_size", [1, 2, 3, 9])
def test_mean_weight_survives_zero_and_extreme_weights(block_size):
    zero = -jnp.inf
    log_w = jnp.array([[zero, zero], [zero, zero], [900.0, zero], [zero, zero], [902.0, zero]])
    result = mean_weight(lambda index: log_w[index], 5, block_size)
    expected = 902.0 + math.log((1 + math.exp(-2)) / 5)
    np.testing.assert_allclose(result.log_likelihood, [expected, -np.inf], rtol=1e-6)
    expected = (1 + math.exp(-2)) ** 2 / (1 + math.exp(-4))
    np.testing.assert_allclose(result.effective_sample_size, [expected, np.nan], rtol=1e-6)


def test_pareto_k_is_the_tail_of_the_weights(key):
    """Weights U^-k are Pareto with shape k: k̂ within 0.1 over 10,000; bounded weights have k < 0.

    Its standard error is near (1 + k)/√300, for 3 √S of them make the tail.
    """
    uniform = jax.random.uniform(key, (3, 10_000), minval=1e-7)
    shapes = jnp.array([0.2, 0.5, 0.9])
    found = pareto_k(-shapes[:, None] * jnp.log(uniform))
    np.testing.assert_allclose(found, shapes, atol=4 * 1.9 / 300**0.5)
    assert pareto_k(uniform[:1])[0] < 0.2
    assert pareto_k(jnp.zeros((1, 10)))[0] == np.inf
