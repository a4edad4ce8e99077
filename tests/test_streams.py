"""Images that stay on the disk, or are made when asked for: the same batches, the same run."""

import dataclasses

import jax
import numpy as np
import pytest

import avb_jax as avb
from avb_jax import data
from avb_jax.data import Batches, Dataset, Split, Stream, read_ahead

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 3, 1), dtype=np.uint8)


class Made:
    """Images that are made when they are asked for; as a module's class, a worker finds it."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, row):
        return IMAGES[row]


def itself(image):
    return image


STREAM = Stream(Made(), itself)


def test_a_stream_is_indexed_as_an_array_is():
    assert STREAM.shape == IMAGES.shape and len(STREAM) == 50 and STREAM.nbytes == IMAGES.nbytes
    for index in (slice(7), slice(3, 20, 4), np.array([4, 4, 1]), np.arange(6).reshape(2, 3)):
        np.testing.assert_array_equal(STREAM[index], IMAGES[index])
        assert STREAM[index].dtype == np.uint8


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_read_ahead_are_the_batches(workers):
    """From the middle of a run, across the end of an epoch, for the second of two processes."""
    batches = Batches(STREAM, 8, 3, part=1, parts=2)
    expected = Batches(IMAGES, 8, 3)
    calls = read_ahead(batches, 4, 5, workers)
    for step in (4, 9, 14):
        found = next(calls)
        assert found.shape == (5, 4, 4, 3, 1)
        np.testing.assert_array_equal(found, expected.take(step, 5)[:, 4:])


@pytest.mark.parametrize("scale", [1, 255])
def test_a_file_is_the_same_in_memory_and_on_the_disk(tmp_path, scale):
    """An array of 0 and 1 alone is binary, in either."""
    images = IMAGES if scale == 1 else (IMAGES > 127).astype(np.uint8)
    path = tmp_path / "mine.npy"
    np.save(path, images[..., 0])
    held, streamed = (data.load(str(path), loading=loading) for loading in ("memory", "stream"))
    for of_memory, of_disk in zip(held[1:], streamed[1:], strict=True):
        assert isinstance(of_disk.images, Stream) and of_disk.labels is None
        assert of_disk.images.shape == of_memory.images.shape
        np.testing.assert_array_equal(of_disk.images[:], of_memory.images)
    assert held.event_shape == streamed.event_shape


def test_auto_streams_what_is_over_the_limit(tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, IMAGES)
    small, large = (
        data.load(str(path), loading="auto", memory_limit_gb=limit).train.images
        for limit in (1e-7, 1.0)
    )
    assert isinstance(small, Stream) and isinstance(large, np.ndarray)


@pytest.mark.parametrize(
    "array,message",
    [
        (IMAGES.astype(np.float32), "to be streamed, must be uint8"),
        (IMAGES[0, 0], "got uint8\\[3, 1\\]"),
        (IMAGES[:9], "must hold at least 10 images"),
    ],
)
def test_a_file_that_cannot_be_streamed(tmp_path, array, message):
    path = tmp_path / "mine.npy"
    np.save(path, array)
    with pytest.raises(ValueError, match=message):
        data.load(str(path), loading="stream")


def test_what_cannot_be_streamed_is_one_sentence(tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, IMAGES)
    with pytest.raises(ValueError, match="loading was 'stream' with dataset digits"):
        data.load("digits", loading="stream")
    with pytest.raises(ValueError, match="binarization was 'static' with dataset"):
        data.load(str(path), loading="stream", binarization="static")
    with pytest.raises(ValueError, match="loading must be one of auto, memory, stream"):
        data.load("digits", loading="tape")
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match="must hold a plain array"):
        data.load(str(path), loading="stream")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_is_the_same_from_either(tmp_path, workers):
    """Bit for bit, also when it was stopped and goes on from another step."""
    config = avb.Config(
        encoder="gaussian", latent_dim=2, width=8, depth=1, batch_size=8, num_steps=30,
        steps_per_call=5, data_workers=workers,
    )  # fmt: skip
    held, streamed = (Dataset("mine", *[Split(images)] * 3) for images in (IMAGES, STREAM))
    whole = avb.train(config, tmp_path / "held", dataset=held)

    class Stopped(Exception):
        pass

    def stop(run):
        if run.step >= 10:
            raise Stopped

    often = dataclasses.replace(config, checkpoint_interval=1e-6, figure_interval=1e-6)
    with pytest.raises(Stopped):
        avb.train(often, tmp_path / "streamed", dataset=streamed, on_interval=stop)
    resumed = avb.train(config, tmp_path / "streamed", dataset=streamed)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(a, b)
