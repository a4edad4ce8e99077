"""Event files: what is read back, after a run was killed in its midst too."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avb_jax.reporting import TensorBoardWriter, save_png

pytest.importorskip("tensorboardX", reason="needs tensorboardX")


def read(directory: Path) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, bytes]], int]:
    """Scalars and images by name and step as TensorBoard takes them, and what it forgot of them.

    Its rule: the start of a session at a step outdates all that earlier files had from there on.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    scalars, images, forgotten = {}, {}, 0
    for path in sorted(directory.iterdir()):
        for record in records(path):
            event = Event.FromString(record)
            if event.session_log.status == SessionLog.START:
                for steps in [*scalars.values(), *images.values()]:
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
                        forgotten += 1
            for value in event.summary.value:
                if value.HasField("image"):
                    steps, found = images, value.image.encoded_image_string
                else:
                    steps, found = scalars, value.simple_value
                assert event.step not in steps.setdefault(value.tag, {}), "a step came twice"
                steps[value.tag][event.step] = found
    return scalars, images, forgotten


def records(path: Path) -> list[bytes]:
    """Those of a TFRecord file: 8 bytes of length, 4 of its checksum, the record, 4 of its own."""
    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def test_scalars_and_figures_come_back(tmp_path):
    path = save_png(tmp_path / "figures" / "latent.png", np.random.default_rng(0).random((9, 7, 1)))
    with TensorBoardWriter(tmp_path / "tensorboard") as writer:
        writer.write(10, {"elbo_estimate": -1.5, "balance": 0.25})
        writer.write_figures(10, [path])
        writer.write(20, {"elbo_estimate": -0.5, "balance": float("nan")})
    scalars, images, _ = read(tmp_path / "tensorboard")
    assert scalars["elbo_estimate"] == {10: -1.5, 20: -0.5}
    assert scalars["balance"][10] == 0.25 and np.isnan(scalars["balance"][20])
    (tmp_path / "read.png").write_bytes(images["latent"][10])
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "read.png")), expected)


def test_a_resumed_run_has_each_step_once(tmp_path):
    """Killed after step 40, and resumed from the checkpoint of step 20."""
    path = save_png(tmp_path / "a.png", np.zeros((4, 4, 1)))
    with TensorBoardWriter(tmp_path / "tensorboard") as writer:
        for step in (10, 20, 30, 40):
            writer.write(step, {"a": step / 10})
        writer.write_figures(40, [path])
    with TensorBoardWriter(tmp_path / "tensorboard") as writer:
        for step in (30, 40, 50):
            writer.write(step, {"a": -1.0})
        writer.write_figures(50, [path])
    scalars, images, forgotten = read(tmp_path / "tensorboard")
    assert scalars["a"] == {10: 1.0, 20: 2.0, 30: -1.0, 40: -1.0, 50: -1.0}
    assert list(images["a"]) == [50] and forgotten == 3


def test_a_complete_run_that_is_asked_again_writes_nothing(tmp_path):
    with TensorBoardWriter(tmp_path / "tensorboard") as writer:
        writer.write_figures(50, [save_png(tmp_path / "a.png", np.zeros((4, 4, 1)))])
    assert not (tmp_path / "tensorboard").exists()


def test_without_tensorboardx_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"not installed; pip install -e '\.\[tensorboard\]'"):
        TensorBoardWriter(tmp_path)
