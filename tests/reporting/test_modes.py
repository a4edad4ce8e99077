"""Posteriors with two modes are found, and described as they are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax.reporting.modes import find_modes, modes_page

CENTRES = np.array([[-1.0, 0.5], [1.5, -0.5]], np.float32)
SCALE = 0.2


class TwoModes(NamedTuple):
    """p(z|x): two Gaussians of standard deviation 0.2, the first weighing x; q(z|x) the first."""

    latent_dim: int = 2

    def survey(self, params, x, z):
        weight = x[:, 0, 0, 0]
        squares = jnp.sum(jnp.square(z[:, None] - CENTRES[None]), axis=-1) / (2.0 * SCALE**2)
        either = jnp.log(jnp.stack([weight, 1.0 - weight]))[None] - squares[:, :, None]
        return jax.nn.logsumexp(either, axis=1)

    def sample_posterior(self, params, key, x, num_samples):
        noise = jax.random.normal(key, (num_samples, len(x), 2))
        return CENTRES[:1][None] + SCALE * noise


def weights(*values):
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


def test_the_heaviest_second_modes_are_found():
    """Masses by a grid of spacing 0.027, to 1e-3; places to that spacing."""
    found = find_modes(TwoModes(), None, jax.random.key(0), weights(0.99, 0.7, 0.1, 0.55))
    assert found["modes_index"].tolist() == [3, 1, 2]
    expected = [[0.55, 0.45], [0.7, 0.3], [0.9, 0.1]]
    np.testing.assert_allclose(found["modes_masses"], expected, atol=1e-3)
    places = np.stack([CENTRES, CENTRES, CENTRES[::-1]])
    np.testing.assert_allclose(found["modes_z"], places, atol=0.028)
    assert found["modes_draws"].shape == (1000, 3, 2)
    images = np.zeros((3, 8, 8, 1), np.uint8)
    page = modes_page({**found, "modes_images": images}, "")
    # A picture and a panel for each; contours in the panel.
    assert len(page.figure.axes) == 6
    assert page.svg()


def test_an_image_that_comes_twice_is_shown_once():
    found = find_modes(TwoModes(), None, jax.random.key(0), weights(0.7, 0.6, 0.7, 0.6))
    assert found["modes_index"].tolist() == [1, 0]


def test_one_mode_is_none():
    assert find_modes(TwoModes(), None, jax.random.key(0), weights(0.999, 0.001)) is None


def test_a_plane_is_needed():
    with pytest.raises(ValueError, match="latent_dim was 3; allowed is 2"):
        find_modes(TwoModes(3), None, jax.random.key(0), weights(0.5))
