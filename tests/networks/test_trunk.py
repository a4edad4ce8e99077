"""What an encoder asks of the decoder: when, and what it makes of the answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax.networks.trunk import Trunk, look_around
from avb_jax.types import Answers

B, D = 3, 2
X = np.random.default_rng(1).uniform(size=(B, 8, 8, 1)).astype(np.float32)


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_the_trunk_asks_for_the_score_at_each_of_its_guesses(refinements):
    """At their means alone; fresh corrections are nil, so that all the guesses are the first."""
    asked = []

    def watched(z):
        asked.append(z)
        return 20.0 * jnp.cos(3.0 * z)

    trunk = Trunk(D, 16, 2, refinements)
    answers = Answers(watched)
    (features, guess), params = trunk.init_with_output(jax.random.key(0), X, answers)
    assert len(asked) == refinements and features.shape == (B, 16 + 256 * bool(refinements))
    for mean in asked:
        np.testing.assert_array_equal(mean, guess.mean)
    blind = trunk.apply(params, X, Answers(jnp.zeros_like))[0]
    assert np.array_equal(blind, features) == (refinements == 0)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_survey_starts_the_guess_at_the_mean_of_the_posterior_on_its_grid(dim, random_params):
    """Of N(c, 0.5² I), c its own for each x: that of the mass on the grid is c."""
    centres = np.random.default_rng(2).uniform(-1.0, 1.0, (B, dim)).astype(np.float32)

    def survey(z):
        assert z.shape == (16**dim, dim)  # decoded once, for all x
        return 300.0 - 2.0 * jnp.sum(jnp.square(z[:, None] - centres[None]), axis=-1)

    answers = Answers(jnp.zeros_like, survey)
    start, seen = look_around(answers, dim, 16, jnp.float32)
    np.testing.assert_allclose(start, centres, atol=1e-3)
    assert seen.shape == (B, 3 * 16**dim) and np.max(seen) <= 1.0
    trunk = Trunk(dim, 16, 2, survey=16)
    params = random_params(trunk, X, answers)
    (features, guess), blind = (
        trunk.apply(params, X, told)
        for told in (answers, Answers(jnp.zeros_like, lambda z: jnp.zeros((len(z), B))))
    )
    assert features.shape == (B, 16 + 256)
    assert np.min(np.abs(guess.mean - blind[1].mean)) > 1e-4
