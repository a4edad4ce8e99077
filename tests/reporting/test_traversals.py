"""Latent traversals: where they decode, around what, and that they can be drawn."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from avb_jax.reporting import draw_traversals, traversal_centre, traversal_points

LEVELS = norm.ppf(np.linspace(0.03, 0.97, 16))


@pytest.mark.parametrize("dim", [1, 3])
def test_each_latent_moves_over_quantiles_of_the_prior_and_the_others_stay(dim):
    centre = np.arange(dim) + 0.5
    z = traversal_points(centre)
    assert z.shape == (dim, 16, dim) and z.dtype == np.float32
    for d in range(dim):
        np.testing.assert_allclose(z[d, :, d], LEVELS, atol=1e-5)
        others = np.delete(np.arange(dim), d)
        np.testing.assert_array_equal(z[d][:, others], np.tile(centre[others], (16, 1)))


def test_two_latents_are_a_plane():
    z = traversal_points(np.array([7.0, 7.0]))
    assert z.shape == (16, 16, 2)
    np.testing.assert_allclose(z[3, 5], [LEVELS[5], LEVELS[3]], atol=1e-5)


def test_the_others_stay_at_a_posterior_mean_where_there_is_one(tmp_path):
    mean, image = traversal_centre(tmp_path, 3)
    assert mean.tolist() == [0.0, 0.0, 0.0] and image is None
    draws, images = np.random.default_rng(0).normal(size=(9, 2, 3)), np.zeros((2, 4, 4, 1))
    (tmp_path / "figures").mkdir()
    path = tmp_path / "figures" / "snapshot.npz"
    np.savez(path, posterior_draws=draws, posterior_images=images)
    mean, image = traversal_centre(tmp_path, 3)
    np.testing.assert_allclose(mean, draws[:, 0].mean(axis=0))
    assert image.shape == (4, 4, 1)
    assert traversal_centre(tmp_path, 2)[1] is None
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="snapshot.npz is damaged"):
        traversal_centre(tmp_path, 3)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_they_are_drawn_whatever_the_latent_space(tmp_path, dim):
    z = traversal_points(np.zeros(dim))
    images = np.broadcast_to(z.std(axis=-1)[..., None, None, None], (*z.shape[:2], 4, 4, 1))
    image = np.zeros((4, 4, 1), np.uint8)
    path = draw_traversals(images, z, image, tmp_path, tmp_path / "a.png")
    with Image.open(path) as picture:
        assert min(picture.size) > 150 and len(picture.convert("L").getcolors(256)) > 10
