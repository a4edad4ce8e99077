"""Batches: every image once, whatever their number; and an evaluation that is killed goes on."""

import numpy as np
import pytest

from avb_jax.evaluation.batches import Kept, in_batches

IMAGES = np.arange(20.0, dtype=np.float32).reshape(10, 2)


class Counted:
    """Sums of rows, and a noise that is the image's own; stops before batch `until`."""

    def __init__(self, until=None):
        self.calls, self.until = 0, until

    def __call__(self, index, x):
        if self.calls == self.until:
            raise KeyboardInterrupt
        self.calls += 1
        return {"sum": x.sum(axis=1), "twice": 2.0 * index[:, None] + np.zeros((1, 3))}


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_every_image_is_there_once_and_in_order(batch_size):
    found = in_batches(Counted(), IMAGES, batch_size)
    np.testing.assert_array_equal(found["sum"], IMAGES.sum(axis=1))
    np.testing.assert_array_equal(found["twice"][:, 1], 2.0 * np.arange(10))


@pytest.mark.parametrize(
    ("images", "batch_size", "message"),
    [(IMAGES[:0], 3, "images was 0; allowed is 1 or more"), (IMAGES, 0, "batch_size was 0")],
)
def test_no_images_and_no_batch_are_one_sentence(images, batch_size, message):
    with pytest.raises(ValueError, match=message):
        in_batches(Counted(), images, batch_size)


def test_what_was_done_is_not_done_again(tmp_path):
    path = tmp_path / "folder" / "kept.npz"
    with pytest.raises(KeyboardInterrupt):
        in_batches(Counted(until=2), IMAGES, 3, kept=Kept(path, "a"))
    rest = Counted()
    kept = Kept(path, "a")
    found = in_batches(rest, IMAGES, 3, kept=kept)
    assert rest.calls == 2 and kept.seconds > 0.0
    whole = in_batches(Counted(), IMAGES, 3)
    assert found.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(found[name], whole[name])
    nothing = Counted()
    in_batches(nothing, IMAGES, 3, kept=Kept(path, "a"))
    assert nothing.calls == 0


@pytest.mark.parametrize("damage", ["another identity", "cut short", "empty"])
def test_what_cannot_be_used_is_done_again(tmp_path, damage):
    path = tmp_path / "kept.npz"
    in_batches(Counted(), IMAGES, 3, kept=Kept(path, "a"))
    content = path.read_bytes()
    path.write_bytes({"cut short": content[:-40], "empty": b""}.get(damage, content))
    again = Counted()
    in_batches(again, IMAGES, 3, kept=Kept(path, "b" if damage == "another identity" else "a"))
    assert again.calls == 4


def test_the_bar_shows_running_means(capsys):
    in_batches(Counted(), IMAGES, 5, progress=True)
    shown = capsys.readouterr().err
    assert "10/10" in shown and f"sum={IMAGES.sum(axis=1).mean():.2f}" in shown
