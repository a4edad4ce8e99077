"""Snapshots and figures of a model whose posterior and decoder are known in closed form."""

import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from PIL import Image

from avb_jax.reporting import MetricsWriter, draw_figures, image_grid, save_png, take_snapshot
from avb_jax.reporting.curves import CURVES
from avb_jax.reporting.figures import _image_pages
from avb_jax.reporting.images import GREY, resize
from avb_jax.reporting.latents import latent_page, posteriors_page
from avb_jax.reporting.style import PALETTE, style

SIDE = 4
PAGES = ["data", "reconstructions", "samples", "interpolations", "latent", "posteriors"]


class FakeModel(NamedTuple):
    latent_dim: int
    event_shape: tuple[int, ...]
    sample_posterior: Callable
    decode_mean: Callable

    def survey(self, params, x, z):
        """One mode for each x, at its first two pixels."""
        centres = x.reshape(len(x), -1)[:, : z.shape[-1]]
        return -jnp.sum(jnp.square(z[:, None] - centres[None]), axis=-1)


def sample_posterior(params, key, x, num_samples):
    """N(first pixels of x, scale²), and its first two dimensions correlated."""
    dim = params["dim_like"].shape[0]
    mean = x.reshape(len(x), -1)[:, :dim]
    noise = jax.random.normal(key, (num_samples, len(x), dim))
    if dim > 1:
        noise = noise.at[..., 1].add(noise[..., 0])
    return mean[None] + params["scale"] * noise


def decode_mean(params, z):
    del params
    pixels = jnp.zeros((*z.shape[:2], SIDE * SIDE)).at[..., : z.shape[-1]].set(z)
    return jax.nn.sigmoid(pixels).reshape(*z.shape[:2], SIDE, SIDE, 1)


def snapshot_of(dim, labels, path, count=150, scale=0.3):
    """The images, and what `take_snapshot` says of them."""
    model = FakeModel(dim, (SIDE, SIDE, 1), sample_posterior, decode_mean)
    params = {"dim_like": jnp.zeros(dim), "scale": jnp.float32(scale)}
    images = np.random.default_rng(1).random((count, SIDE, SIDE, 1), np.float32)
    take_snapshot(model, params, jax.random.key(0), images, labels, path)
    with np.load(path) as arrays:
        return images, dict(arrays)


def as_pixels(images):
    return np.round(np.asarray(images) * 255).astype(np.uint8)


def test_a_snapshot_holds_what_the_model_says(tmp_path):
    labels = np.arange(150) % 7
    images, snapshot = snapshot_of(2, labels, tmp_path / "new" / "snapshot.npz", scale=0.0)
    np.testing.assert_array_equal(snapshot["latents"], images.reshape(150, -1)[:, :2])
    np.testing.assert_array_equal(snapshot["labels"], labels)
    # Which images are shown: 64 of the 150, none twice, not the first 64 (by chance: 86 to 64).
    position = {image.tobytes(): i for i, image in enumerate(as_pixels(images))}
    shown = [position[image.tobytes()] for image in snapshot["data"]]
    assert len(set(shown)) == 64 and max(shown) >= 64
    z = images.reshape(150, -1)[shown][None, :, :2]
    np.testing.assert_array_equal(snapshot["reconstructions"], as_pixels(decode_mean({}, z)[0]))
    assert snapshot["samples"].shape == (64, SIDE, SIDE, 1)
    # The second path starts at the third image shown and ends at the fourth; 2/7 of the way:
    assert snapshot["interpolations"].shape == (8, 8, SIDE, SIDE, 1)
    expected = as_pixels(decode_mean({}, (5 * z[:, 2:3] + 2 * z[:, 3:4]) / 7)[0, 0])
    np.testing.assert_allclose(snapshot["interpolations"][1, 2], expected, atol=1)
    # Six of the seven labels, evenly spread, and the first image of each.
    assert snapshot["posterior_labels"].tolist() == [0, 1, 2, 4, 5, 6]
    np.testing.assert_array_equal(
        snapshot["posterior_images"], as_pixels(images[snapshot["posterior_labels"]])
    )


def test_the_grid_is_decoded_at_quantiles_of_the_prior(tmp_path):
    _, snapshot = snapshot_of(2, None, tmp_path / "snapshot.npz")
    grid_z = snapshot["grid_z"]
    levels = jax.scipy.stats.norm.cdf(grid_z)
    np.testing.assert_allclose(levels, np.linspace(0.03, 0.97, 16), atol=1e-5)
    expected = decode_mean({}, jnp.array([[[grid_z[11], grid_z[2]]]]))[0, 0]
    np.testing.assert_array_equal(snapshot["grid"][2, 11], as_pixels(expected))
    assert "labels" not in snapshot and "posterior_labels" not in snapshot


def test_posterior_draws_have_the_posterior_moments(tmp_path):
    images, snapshot = snapshot_of(2, np.arange(150), tmp_path / "snapshot.npz")
    draws = snapshot["posterior_draws"]
    assert draws.shape == (1000, 6, 2)
    # Five standard errors at a fixed seed: sd / √1000, and √(2 / 1000) of each variance.
    scale = 0.3 * np.array([1.0, np.sqrt(2.0)])
    error = draws.mean(axis=0) - images.reshape(150, -1)[snapshot["posterior_labels"], :2]
    assert (np.abs(error) < 5 * scale / np.sqrt(1000)).all()
    assert (np.abs(draws.var(axis=0) / scale**2 - 1) < 5 * np.sqrt(2 / 1000)).all()


def test_a_snapshot_refuses_wrong_input(tmp_path):
    path = tmp_path / "snapshot.npz"
    with pytest.raises(ValueError, match=r"labels was of shape \(3,\); it must be \(150,\)"):
        snapshot_of(2, np.zeros(3, int), path)
    with pytest.raises(ValueError, match=r"images was of shape \(0, 4, 4, 1\)"):
        snapshot_of(2, None, path, count=0)
    with pytest.raises(ValueError, match="params give .* not finite"):
        snapshot_of(2, None, path, scale=np.nan)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dim", "count", "labels", "scale"),
    # Few images and many, few labels and many, and a posterior that is a point.
    [(1, 3, 1, 0.3), (2, 150, 0, 0.3), (3, 150, 30, 0.0)],
)
def test_every_figure_is_drawn_whatever_the_latent_space(tmp_path, dim, count, labels, scale):
    labels = np.arange(count) % labels if labels else None
    snapshot_of(dim, labels, tmp_path / "figures" / "snapshot.npz", count, scale)
    paths = draw_figures(tmp_path)
    assert paths == [tmp_path / "figures" / f"{name}.png" for name in PAGES]
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) >= 100
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 2
        assert path.stat().st_size < 400_000


def test_the_data_are_shown_pixel_for_pixel(tmp_path):
    _, snapshot = snapshot_of(2, None, tmp_path / "snapshot.npz")
    with style():
        path = _image_pages(snapshot, "")["data"].save(tmp_path / "data.png")
    page = np.asarray(Image.open(path).convert("L"))
    grid = image_grid(resize(snapshot["data"], 72), 8, gap=4)[..., 0]
    # Inside the frame of one pixel, below title and subtitle (0.75 inches) at 120 to the inch.
    region = page[90 : 90 + grid.shape[0], 18 : 18 + grid.shape[1]]
    np.testing.assert_array_equal(region[2:-2, 2:-2], grid[2:-2, 2:-2])


def test_ellipses_are_the_gaussian_of_the_same_moments(tmp_path):
    _, snapshot = snapshot_of(2, np.arange(150), tmp_path / "snapshot.npz")
    together, *others = posteriors_page(snapshot, "").figure.axes
    assert [circle.radius for circle in together.patches] == [1, 2, 3]
    # After the axes of each image come those of its draws.
    for i, axes in enumerate(others[1::2]):
        draws = snapshot["posterior_draws"][:, i].astype(float)
        np.testing.assert_allclose(together.collections[i].get_offsets(), draws)
        np.testing.assert_allclose(axes.collections[0].get_offsets(), draws)
        precision = np.linalg.inv(np.cov(draws.T))
        for radius, line in zip((1, 2), axes.lines, strict=True):
            offset = line.get_xydata() - draws.mean(axis=0)
            distance = np.sqrt(np.einsum("ni,ij,nj->n", offset, precision, offset))
            np.testing.assert_allclose(distance, radius, rtol=1e-6)


def test_each_label_has_its_colour(tmp_path):
    labels = np.arange(150) % 7
    images, snapshot = snapshot_of(2, labels, tmp_path / "snapshot.npz", scale=0.0)
    axes = latent_page(snapshot, "").figure.axes[0]
    dots = axes.collections[0]
    label_at = dict(zip(map(tuple, images.reshape(150, -1)[:, :2]), labels, strict=True))
    for place, shown in zip(dots.get_offsets(), dots.get_facecolors(), strict=True):
        expected = matplotlib.colors.to_rgb(PALETTE[label_at[tuple(np.float32(place))]])
        np.testing.assert_allclose(shown[:3], expected)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["0", "1", "2", "3", "4", "5", "6"]


def test_principal_components_keep_the_prior_around_the_origin():
    rng = np.random.default_rng(0)
    # Most of the variance in the third and the first dimension, far from the origin in both.
    latents = np.array([0.5, 0.01, 2.0]) * rng.normal(size=(500, 3)) + np.array([1.0, 9.0, -2.0])
    axes = latent_page({"latents": latents}, "").figure.axes[0]
    shown = np.asarray(axes.collections[0].get_offsets())
    # Four standard errors of the wider one's mean at a fixed seed: 4 × 2 / √500.
    np.testing.assert_allclose(np.abs(shown.mean(axis=0)), [2.0, 1.0], atol=0.36)
    variances = np.linalg.eigvalsh(np.cov(latents.T))[::-1]
    np.testing.assert_allclose(shown.var(axis=0, ddof=1), variances[:2])
    share = variances[0] / variances.sum()
    assert axes.get_xlabel() == f"principal component 1 ({share:.0%} of the variance)"


@pytest.mark.parametrize(
    ("lines", "names"), [(1, ["elbo_estimate", "reconstruction"]), (200, list(CURVES))]
)
def test_learning_curves_are_drawn_of_what_there_is(tmp_path, lines, names):
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        for step in range(lines):
            writer.write(step, dict.fromkeys(names, np.nan if step == 1 else 1.0 / (step + 1)))
    (tmp_path / "config.json").write_text('{"dataset": "/data/mine.npz", "latent_dim": 2}')
    assert draw_figures(tmp_path) == [tmp_path / "figures" / "learning_curves.png"]


def test_drawing_says_what_it_lacks(tmp_path):
    with pytest.raises(ValueError, match="holds no figures/snapshot.npz"):
        draw_figures(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    assert draw_figures(tmp_path) == []
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        draw_figures(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "snapshot.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="snapshot.npz is damaged"):
        draw_figures(tmp_path)


def test_the_callers_matplotlib_stays_as_it_was(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "elbo_estimate": -3.0}\n')
    program = (
        "import sys, avb_jax.reporting as r; assert 'matplotlib' not in sys.modules;"
        "import matplotlib; before = matplotlib.rcParams.copy();"
        f"r.draw_figures({str(tmp_path)!r});"
        "assert 'matplotlib.pyplot' not in sys.modules;"
        "assert matplotlib.rcParams.copy() == before"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("dtype", "white", "grey"), [(np.uint8, 255, GREY), (float, 1, GREY / 255)]
)
def test_image_grid_places_images_row_by_row(dtype, white, grey):
    images = (np.arange(3)[:, None, None, None] * np.ones((1, 2, 1, 1))).astype(dtype)
    g, w = grey, white
    expected = [[0, g, 1], [0, g, 1], [g, g, g], [2, g, w], [2, g, w]]
    grid = image_grid(images, columns=2)
    assert grid.dtype == images.dtype
    np.testing.assert_array_equal(grid[..., 0], np.array(expected, dtype))
    np.testing.assert_array_equal(image_grid(images, 3, gap=0)[..., 0], [[0, 1, 2], [0, 1, 2]])


def test_images_of_the_wrong_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"images was of shape \(3, 2, 2\)"):
        image_grid(np.zeros((3, 2, 2)), 2)
    with pytest.raises(ValueError, match="columns was 0"):
        image_grid(np.zeros((3, 2, 2, 1)), 0)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        save_png(tmp_path / "a.png", np.zeros((2, 2, 2)))


@pytest.mark.parametrize("channels", [1, 3])
def test_save_png_keeps_every_pixel(tmp_path, channels):
    image = np.random.default_rng(0).uniform(-0.2, 1.2, (5, 7, channels))
    read = np.asarray(Image.open(save_png(tmp_path / "new" / "a.png", image)))
    np.testing.assert_array_equal(read.reshape(image.shape), as_pixels(image.clip(0, 1)))


def test_resize_keeps_whole_pixels():
    image = np.array([[[[0], [100]], [[200], [60]]]], np.uint8)
    larger = resize(image, 5)
    assert larger.shape == (1, 4, 4, 1) and larger[0, :2, 2:, 0].tolist() == [[100, 100]] * 2
    np.testing.assert_array_equal(resize(larger, 2), image)
    assert resize(image, 1).tolist() == [[[[90]]]]
