"""Data sets prepared by tensorflow-datasets: splits, transforms, cache and failures."""

import io
import json
import re
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from avb_jax import data
from avb_jax.data import prepared

PAPER = np.full((105, 105, 3), 255, np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "avb_jax"


def prepare(root, name, splits):
    """Writes `splits` ({split: images}) as TFDS does; the label of an image is its row."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    builder = tfds.builder(name, data_dir=str(root))
    path = Path(builder.data_dir)
    path.mkdir(parents=True)
    for split, images in splits.items():
        writer = ArrayRecordWriter(str(path / shard(name, split)), "group_size:1")
        for row, image in enumerate(images):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(png.getvalue())
            for key in flat_keys(builder.info.features):
                example.features.feature[key].int64_list.value.append(row)
            writer.write(example.SerializeToString())
        writer.close()
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    infos = [
        {"name": split, "filepathTemplate": template, "shardLengths": [str(len(images))]}
        for split, images in splits.items()
    ]
    info = {"name": name, "version": path.name, "fileFormat": "array_record", "splits": infos}
    (path / "dataset_info.json").write_text(json.dumps(info))
    builder.info.features.save_config(str(path))
    return path


def shard(name, split):
    return f"{name}-{split}.array_record-00000-of-00001"


def flat_keys(features):
    for key, feature in features.items():
        if hasattr(feature, "keys"):
            yield from (f"{key}/{inner}" for inner in feature)
        elif key not in ("image", "id"):
            yield key


def omniglot_images(n):
    """White paper with a black square whose place tells the row."""
    images = np.stack([PAPER] * n)
    for row in range(n):
        images[row, 15 : 15 + 4 * row, 30:75] = 0
    return images


@pytest.fixture
def omniglot(tmp_path):
    return prepare(tmp_path, "omniglot", {"train": omniglot_images(20), "test": np.stack([PAPER])})


# What is read


def test_omniglot_is_ink_on_zero_and_its_splits_do_not_overlap(tmp_path, omniglot):
    result = data.load("omniglot", data_dir=str(tmp_path), progress=False)
    assert result.event_shape == (28, 28, 1)
    assert result.train.labels.tolist() == list(range(18))
    assert result.validation.labels.tolist() == [18, 19]
    assert result.train.images.dtype == np.uint8 and result.train.labels.dtype == np.int32
    assert not result.test.images.any()
    # Averaging keeps the mass: 4 * row * 45 of 105 * 105 pixels are ink (within a pixel's edge).
    ink = result.train.images.reshape(18, -1).mean(1) / 255
    np.testing.assert_allclose(ink, 4 * np.arange(18) * 45 / 105**2, atol=0.01)
    assert result.train.images[17, 14, 14] == 255


def test_what_is_streamed_is_what_would_be_in_memory(tmp_path, omniglot):
    held, streamed = (
        data.load("omniglot", data_dir=str(tmp_path), loading=loading, progress=False)
        for loading in ("memory", "stream")
    )
    assert isinstance(streamed.train.images, data.Stream)
    for ours, theirs in zip(held[1:], streamed[1:], strict=True):
        np.testing.assert_array_equal(ours.images, theirs.images[:])
    assert isinstance(
        data.load("omniglot", data_dir=str(tmp_path), loading="auto", memory_limit_gb=1e-6,
                  progress=False).train.images,
        data.Stream,
    )  # fmt: skip


def test_celeb_a_is_the_centre_crop(tmp_path):
    image = np.zeros((218, 178, 3), np.uint8)
    image[..., 0] = np.arange(218)[:, None]
    image[..., 1] = np.arange(178)
    image[39:179, 19:159, 2] = 255  # the central 140x140
    prepare(tmp_path, "celeb_a", {"train": [image] * 2, "validation": [image], "test": [image]})
    result = data.load("celeb_a", data_dir=str(tmp_path), progress=False)
    assert [len(split.images) for split in result[1:]] == [2, 1, 1]
    assert result.event_shape == (64, 64, 3) and result.train.labels is None
    place = (np.arange(64) + 0.5) * 140 / 64 - 0.5  # of an output pixel's centre in the crop
    red, green, blue = np.moveaxis(result.test.images[0].astype(float), -1, 0)
    np.testing.assert_allclose(red, np.broadcast_to(39 + place[:, None], (64, 64)), atol=1)
    np.testing.assert_allclose(green, np.broadcast_to(19 + place, (64, 64)), atol=1)
    assert (blue == 255).all()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "binarized_mnist"])
def test_real_data(name, tfds_dir, monkeypatch):
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=str(tfds_dir))
    sizes = [builder.info.splits[split].num_examples for split in prepared.SPLITS[name]]
    assert sizes == [50_000, 10_000, 10_000]
    rows = [builder.as_data_source(split)[7] for split in prepared.SPLITS[name]]

    # The first of each split, to be quick.
    firsts = {"train[:50000]": "train[:20]", "train": "train[:20]", "validation": "validation[:20]"}
    firsts |= {"train[50000:]": "train[50000:50020]", "test": "test[:20]"}
    shortened = tuple(firsts[split] for split in prepared.SPLITS[name])
    monkeypatch.setitem(prepared.SPLITS, name, shortened)
    result = data.load(name, data_dir=str(tfds_dir), progress=False)
    assert result.event_shape == (28, 28, 1)
    scale = 255 if name == "binarized_mnist" else 1
    for split, row in zip(result[1:], rows, strict=True):
        assert split.images.shape == (20, 28, 28, 1) and split.images.max() == 255
        np.testing.assert_array_equal(split.images[7], row["image"] * scale)
        if "label" in row:
            assert split.labels[7] == row["label"]
        else:
            assert split.labels is None


def test_mnist_like_splits_share_no_row():
    for name in ("mnist", "fashion_mnist", "kmnist"):
        assert prepared.SPLITS[name] == ("train[:50000]", "train[50000:]", "test")
    assert prepared.SPLITS["cifar10"] == ("train[:45000]", "train[45000:]", "test")


# The cache


def test_second_load_reads_the_cache_alone(tmp_path, omniglot, own_cache, monkeypatch):
    first = data.load("omniglot", data_dir=str(tmp_path), progress=False)
    assert [path.suffix for path in own_cache.iterdir()] == [".npz"]
    monkeypatch.setattr(prepared, "_decode", lambda *_: pytest.fail("decoded again"))
    second = data.load("omniglot", data_dir=str(tmp_path), progress=False)
    for one, other in zip(first[1:], second[1:], strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "foreign"])
def test_a_damaged_cache_is_rebuilt(tmp_path, omniglot, own_cache, damage):
    first = data.load("omniglot", data_dir=str(tmp_path), progress=False)
    (cache,) = own_cache.iterdir()
    whole = cache.read_bytes()
    flipped = bytearray(whole)
    flipped[2000] ^= 255  # a pixel of the first array
    if damage == "foreign":
        np.savez(cache, something=np.zeros(3))
    else:
        cache.write_bytes({"flip": bytes(flipped), "truncate": whole[:5000], "empty": b""}[damage])
    again = data.load("omniglot", data_dir=str(tmp_path), progress=False)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    np.testing.assert_array_equal(np.load(cache)["images0"], first.train.images)


def test_other_data_are_not_read_from_the_cache(tmp_path):
    for root, n in (("one", 10), ("two", 20)):
        splits = {"train": omniglot_images(n), "test": omniglot_images(1)}
        prepare(tmp_path / root, "omniglot", splits)
        result = data.load("omniglot", data_dir=str(tmp_path / root), progress=False)
        assert len(result.train.images) == 0.9 * n


def test_no_cache_where_none_can_be_written(tmp_path, omniglot, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result = data.load("omniglot", data_dir=str(tmp_path), progress=False)
    assert len(result.train.images) == 18


# Failures


@pytest.mark.parametrize("name", list(prepared.SPLITS))
def test_missing_data_is_one_sentence_at_once_without_network(name, tmp_path, monkeypatch, capfd):
    def refuse(*args, **kwargs):
        pytest.fail("the network was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    start = time.monotonic()
    with pytest.raises(ValueError) as error:
        data.load(name, data_dir=str(tmp_path))
    assert time.monotonic() - start < 5
    message = str(error.value)
    assert re.search(rf"dataset {name} is not prepared in {tmp_path}/{name}/\d", message)
    assert f"tfds.builder('{name}', data_dir='{tmp_path}').download_and_prepare(" in message
    assert "pip install tensorflow" in message and "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_incomplete_data_is_one_sentence(tmp_path, omniglot):
    records = omniglot / shard("omniglot", "train")
    info = omniglot / "dataset_info.json"
    whole, described = records.read_bytes(), info.read_text()

    def message():
        with pytest.raises(ValueError, match="must be complete and in the array_record") as error:
            data.load("omniglot", data_dir=str(tmp_path), progress=False)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)

    records.write_bytes(whole[: len(whole) // 2])
    message()
    records.unlink()
    message()
    records.write_bytes(whole)
    info.write_text("{")
    message()
    info.write_text(described.replace("array_record", "tfrecord"))
    message()
    info.write_text(described)
    assert len(data.load("omniglot", data_dir=str(tmp_path), progress=False).train.images) == 18


def test_every_prepared_data_set_has_a_name_for_the_command_line():
    from avb_jax.choices import DATASETS
    from avb_jax.data import prepared

    assert set(DATASETS) == {"digits", "four_images", *prepared.SPLITS}
