"""The descent that contrasts and critics are fitted by."""

import jax
import jax.numpy as jnp
import pytest
from tqdm import tqdm

from avb_jax.fitting import Pace, descend


@pytest.mark.parametrize("beyond", [jnp.nan, 1e12])
def test_a_descent_that_is_lost_goes_back_and_on_more_slowly(beyond, key):
    """To the foot of a slope, past which nothing leads back; at the first rate it goes too far."""

    def loss(params, draws, key):
        del draws, key
        x = params["x"]
        return jnp.where(x < 1.005, jnp.square(x - 1.0), beyond)

    stop = (jnp.zeros(1), jax.random.split(jax.random.key(1), 1))
    with tqdm(disable=True) as bar:
        best, taken = descend(
            key,
            {"x": jnp.float32(0.0)},
            loss,
            lambda key: jnp.float32(0.0),
            stop,
            Pace(0.5, 0.15, 6000, 100),
            bar,
        )
    assert taken == 6000 and abs(float(best["x"]) - 1.0) < 5e-3
