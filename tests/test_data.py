"""Named data sets, the user's own files, binarisation and batches."""

import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax import data

EVERY_INTENSITY = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)


def images_of(n, height=4, width=5, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (n, height, width), np.uint8)


# Binarisation


def test_dynamic_draws_each_intensity_with_its_probability():
    n = 4000
    images = jnp.array(np.broadcast_to(EVERY_INTENSITY, (n, 16, 16, 1)))
    draws = np.asarray(data.binarize(jax.random.key(0), images, "dynamic"))
    assert set(np.unique(draws)) == {0.0, 1.0}
    frequency = draws.mean(0).ravel()
    assert frequency[0] == 0 and frequency[255] == 1
    p = np.arange(256) / 255
    # 5 standard errors, for 254 frequencies at a fixed seed.
    assert np.all(np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / n))


def test_dynamic_draws_are_independent_and_odd_sizes_are_filled():
    images = jnp.full((20_000, 3, 3, 1), 128, jnp.uint8)
    draws = np.asarray(data.binarize(jax.random.key(1), images, "dynamic")).reshape(-1, 9)
    correlation = np.corrcoef(draws, rowvar=False)[np.triu_indices(9, 1)]
    # 5 standard errors, 1 / sqrt(n) each, for 36 pairs: pixels share words of random bits.
    assert np.all(np.abs(correlation) < 5 / np.sqrt(len(draws)))


def test_dynamic_is_a_function_of_the_key_and_the_same_under_jit():
    images = jnp.array(images_of(8))[..., None]
    jitted = jax.jit(data.binarize, static_argnums=2)
    draws = data.binarize(jax.random.key(0), images, "dynamic")
    assert draws.dtype == jnp.float32
    np.testing.assert_array_equal(draws, jitted(jax.random.key(0), images, "dynamic"))
    assert (draws != jitted(jax.random.key(1), images, "dynamic")).any()


@pytest.mark.parametrize("binarization", ["threshold", "static"])
def test_threshold_is_above_127(binarization):
    result = data.binarize(jax.random.key(0), jnp.array(EVERY_INTENSITY), binarization)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(np.ravel(result), np.arange(256) > 127)


def test_none_keeps_intensities():
    result = data.binarize(jax.random.key(0), jnp.array(EVERY_INTENSITY), "none")
    np.testing.assert_allclose(np.ravel(result), np.arange(256) / 255, rtol=1e-6)


def test_binarized_images_are_the_same_in_any_batch_and_drawn_one_batch_at_a_time():
    images = images_of(10, height=16, width=16)[..., None]
    binarized = data.Binarized(jax.random.key(3), images, "dynamic")
    whole = np.asarray(binarized[:])
    assert len(binarized) == 10 and whole.dtype == np.float32
    one = data.binarize(jax.random.fold_in(jax.random.key(3), 7), jnp.array(images[7]), "dynamic")
    np.testing.assert_array_equal(whole[7], one)
    index = np.array([7, 2, 7])
    np.testing.assert_array_equal(binarized[index], whole[index])
    np.testing.assert_array_equal(binarized[4:6], whole[4:6])
    assert (whole[2] != whole[3]).any()


def test_binarize_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="binarization must be one of dynamic, static"):
        data.binarize(jax.random.key(0), jnp.array(EVERY_INTENSITY), "sometimes")
    with pytest.raises(ValueError, match="uint8 to be binarized, got float32"):
        data.binarize(jax.random.key(0), jnp.zeros((4, 4, 1)), "dynamic")


# Batches


def test_every_epoch_holds_each_image_once_in_a_fresh_order():
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    batches = data.Batches(images, batch_size=4, seed=0)
    drawn = batches.take(0, 10)
    assert drawn.shape == (10, 4, 1, 1, 1) and drawn.dtype == np.uint8
    epochs = drawn.reshape(4, 10)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_depend_on_seed_and_step_alone():
    images = np.arange(23, dtype=np.uint8).reshape(23, 1, 1, 1)
    whole = data.Batches(images, 5, seed=3).take(0, 30)
    resumed = data.Batches(images, 5, seed=3)
    np.testing.assert_array_equal(resumed.take(17, 13), whole[17:])
    np.testing.assert_array_equal(resumed.take(2, 1), whole[2:3])
    assert (data.Batches(images, 5, seed=4).take(0, 30) != whole).any()
    # The stream itself, so that no later version shuffles a resumed run anew.
    assert whole[0].ravel().tolist() == [16, 5, 2, 17, 18]


@pytest.mark.parametrize("batch_size", [0, 11])
def test_batch_size_must_fit_the_data(batch_size):
    with pytest.raises(ValueError, match=f"at most 10, the number of images, got {batch_size}"):
        data.Batches(np.zeros((10, 2, 2, 1), np.uint8), batch_size, seed=0)


def test_seed_must_not_be_negative():
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        data.Batches(np.zeros((10, 2, 2, 1), np.uint8), 2, seed=-1)


# Named data sets


def test_digits_are_scikit_learns_and_split_once_and_for_all():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    assert digits.event_shape == (8, 8, 1)
    splits = digits.train, digits.validation, digits.test
    assert [len(split.images) for split in splits] == [1437, 180, 180]
    assert all(s.images.dtype == np.uint8 and s.labels.dtype == np.int32 for s in splits)
    rows = [np.column_stack([s.images.reshape(len(s.images), 64), s.labels]) for s in splits]
    source = load_digits()
    expected = np.column_stack([np.round(source.data * 255 / 16), source.target])
    # Equal as multisets: nothing lost, nothing twice, labels kept.
    assert sorted(map(tuple, np.concatenate(rows))) == sorted(map(tuple, expected))
    assert digits.test.labels[:10].tolist() == [9, 7, 9, 7, 6, 8, 6, 8, 2, 7]


def test_four_images_have_one_pixel_each():
    four = data.load("four_images")
    assert four.event_shape == (2, 2, 1)
    for split in four[1:]:
        np.testing.assert_array_equal(split.images.reshape(4, 4), 255 * np.eye(4))
        np.testing.assert_array_equal(split.labels, np.arange(4))


def test_static_draws_each_pixel_once(tmp_path):
    n = 4000
    path = tmp_path / "all.npy"
    np.save(path, np.broadcast_to(EVERY_INTENSITY, (n, 16, 16, 1)))
    first, second = (data.load(str(path), binarization="static") for _ in range(2))
    for one, other in zip(first[1:], second[1:], strict=True):
        assert set(np.unique(one.images)) == {0, 255}
        np.testing.assert_array_equal(one.images, other.images)
    assert (first.validation.images != first.test.images).any()
    frequency = first.train.images.reshape(-1, 256).mean(0) / 255
    p = np.arange(256) / 255
    assert frequency[0] == 0 and frequency[255] == 1
    # 5 standard errors, for 254 frequencies at a fixed seed.
    assert np.all(np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / (0.8 * n)))


@pytest.mark.parametrize("name", ["cifar", "mnist.txt", ""])
def test_unknown_data_set(name):
    with pytest.raises(ValueError, match=f"dataset must be one of digits, .* got '{name}'"):
        data.load(name)


def test_unknown_binarization():
    with pytest.raises(ValueError, match="binarization must be one of .* got 'sometimes'"):
        data.load("digits", binarization="sometimes")


# The user's own files


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_own_array_is_split_in_order(tmp_path, dtype):
    images = images_of(29)
    np.save(tmp_path / "mine.npy", images.astype(dtype))
    own = data.load(str(tmp_path / "mine.npy"))
    assert own.event_shape == (4, 5, 1) and own.train.labels is None
    assert [len(split.images) for split in own[1:]] == [25, 2, 2]
    joined = np.concatenate([split.images for split in own[1:]])
    assert joined.dtype == np.uint8
    np.testing.assert_array_equal(joined[..., 0], images)


def test_own_archive_gives_its_largest_array(tmp_path):
    images = images_of(30).reshape(10, 4, 5, 3)
    np.savez(tmp_path / "mine.npz", ids=np.arange(10), pictures=images, few=images[:2])
    own = data.load(str(tmp_path / "mine.npz"))
    assert own.event_shape == (4, 5, 3)
    np.testing.assert_array_equal(own.train.images, images[:8])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float64])
def test_own_binary_images_become_black_and_white(dtype):
    binary = images_of(10) > 127
    images = data.validate_images(binary.astype(dtype), "mine.npy")
    np.testing.assert_array_equal(images[..., 0], 255 * binary)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (images_of(10) - 256.0, r"must lie in \[0, 255\], got values in \[-2"),
        (images_of(10) + 256.0, r"must lie in \[0, 255\], got values in \[2"),
        (np.full((10, 4, 4), np.nan), r"must lie in \[0, 255\], got values in \[nan, nan\]"),
        (images_of(10) / 255, "must be integers .* got fractions between 0"),
        (images_of(10).astype(complex), "must be uint8, got complex128"),
        (images_of(10).reshape(10, 20), r"must have the shape .* got \[10, 20\]"),
        (images_of(10).reshape(10, 2, 5, 2), r"1 or 3 channels, got \[10, 2, 5, 2\]"),
        (np.zeros((10, 0, 4), np.uint8), r"must have the shape .* got \[10, 0, 4\]"),
        (images_of(9), "at least 10 images, .* got 9"),
        (np.array([None] * 10), "Python objects, which are never unpickled"),
    ],
)
@pytest.mark.parametrize("save", [np.save, np.savez])
def test_own_files_that_are_no_images(tmp_path, images, message, save):
    path = str(tmp_path / ("mine.npy" if save is np.save else "mine.npz"))
    save(path, images)
    with pytest.raises(ValueError, match=message) as error:
        data.load(path)
    assert path in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_own_files_that_are_damaged_or_missing(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    with pytest.raises(ValueError, match="must be a file, and there is none"):
        data.load(str(path))
    (np.save if suffix == ".npy" else np.savez)(path, images_of(20))
    whole = path.read_bytes()
    for content in (whole[:-150], b"", b"PK\x03\x04 no archive", pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must hold plain arrays .* it is damaged"):
            data.load(str(path))


def test_import_is_light():
    heavy = "tensorflow_datasets", "sklearn", "PIL", "tensorflow"
    code = f"import sys, avb_jax.data; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
