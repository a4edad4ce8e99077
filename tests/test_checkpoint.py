"""Checkpoints: bit-exact, placed where they are wanted, and never believed when damaged."""

import itertools
import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from avb_jax import checkpoint
from avb_jax.checkpoint import Checkpoints


class State(NamedTuple):
    step: jax.Array
    params: dict
    optimizer: tuple
    key: jax.Array
    average: dict | None = None
    empty: tuple = ((), {}, [])


def make_state(step: int) -> State:
    """A state that is a function of the step, with the values that careless copies change."""
    special = jnp.array([-0.0, jnp.nan, jnp.inf, 1e-40, 3.0], jnp.float32)
    key = jax.random.fold_in(jax.random.key(0), step)
    params = {
        "dense": {"kernel": jax.random.normal(key, (8, 5)), "bias": special},
        "half": jnp.arange(6, dtype=jnp.bfloat16) / jnp.bfloat16(7),
        "pixels": jnp.arange(4, dtype=jnp.uint8),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(params)
    keys = {"one": key, "many": jax.random.split(jax.random.key(step, impl="rbg"), 4)}
    return State(jnp.int32(step), params, optimizer, keys)


def bits(leaf: jax.Array) -> tuple:
    """Equal for two arrays if and only if they agree in dtype, shape and every bit."""
    data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return str(leaf.dtype), leaf.shape, np.asarray(data).tobytes()


def assert_identical(left: State | dict, right: State | dict) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    assert list(map(bits, jax.tree.leaves(left))) == list(map(bits, jax.tree.leaves(right)))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A directory with checkpoints of steps 700 and 1200, to copy from."""
    directory = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(directory)
    for step in (700, 1200):
        checkpoints.save(step, make_state(step))
    checkpoints.close()
    return directory


@pytest.fixture
def directory(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "checkpoints")


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """The warnings logged so far."""
    messages: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
    return messages


def test_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new" / "run")
    assert (tmp_path / "new" / "run").is_dir()
    assert checkpoints.steps() == []
    assert checkpoints.restore(make_state(0)) is None


def test_restores_every_bit_and_container(directory, warnings):
    target = make_state(3)
    step, state = Checkpoints(directory).restore(target)
    assert step == 1200
    assert_identical(state, make_state(1200))
    shapes = jax.eval_shape(lambda: target)
    assert_identical(Checkpoints(directory).restore(shapes)[1], make_state(1200))
    assert warnings == []


def test_keeps_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(0, 50, 10):
        checkpoints.save(step, {"x": jnp.float32(step)})
    checkpoints.wait()
    assert checkpoints.steps() == [30, 40]
    reopened = Checkpoints(tmp_path, keep=2)
    reopened.save(50, {"x": jnp.float32(50)})
    reopened.close()
    assert reopened.steps() == [40, 50]
    assert float(reopened.restore({"x": jnp.float32(0)})[1]["x"]) == 50


def test_state_may_be_donated_during_a_save(tmp_path):
    advance = jax.jit(lambda state: {"x": state["x"] + 1}, donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    state = {"x": jnp.zeros(300_000, jnp.int32)}
    for step in range(0, 30, 10):
        checkpoints.save(step, state)
        for _ in range(10):
            state = advance(state)
    checkpoints.wait()
    step, restored = checkpoints.restore(state)
    assert step == 20
    np.testing.assert_array_equal(restored["x"], 20)


def test_unfinished_save_is_left_to_those_who_save(directory):
    unfinished = directory / "00001250.orbax-checkpoint-tmp"
    (unfinished / "state").mkdir(parents=True)
    checkpoints = Checkpoints(directory)
    assert checkpoints.restore(make_state(0))[0] == 1200
    assert unfinished.is_dir()
    checkpoints.save(1300, make_state(1300))
    checkpoints.close()
    assert not unfinished.exists()


def test_saving_a_step_again(directory):
    checkpoints = Checkpoints(directory)
    checkpoints.save(1200, make_state(5))
    assert_identical(checkpoints.restore(make_state(0))[1], make_state(1200))
    with pytest.raises(ValueError, match=r"^step must be at least 1200, .* got 900\.$"):
        checkpoints.save(900, make_state(900))
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Checkpoints(directory, keep=0)


def test_to_other_devices_and_back(tmp_path):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    state = {"x": jnp.arange(8.0), "key": jax.random.key(5)}
    placed = {
        "x": jax.device_put(state["x"], split),
        "key": jax.device_put(state["key"], replicated),
    }
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    restored = checkpoints.restore(placed)[1]
    assert restored["x"].sharding == split and restored["key"].sharding == replicated
    checkpoints.save(2, restored)
    returned = checkpoints.restore(state)[1]
    assert [leaf.sharding.num_devices for leaf in jax.tree.leaves(returned)] == [1, 1]
    assert_identical(returned, state)


def test_every_file_is_watched(saved, tmp_path, warnings):
    """A byte flipped in any file of a saved state, its last byte cut off, or the file gone."""
    item = saved / "00001200" / "state"
    files = [path.relative_to(saved) for path in item.rglob("*") if path.is_file()]
    watched = [name for name in files if name.name != "commit_success.txt"]
    assert len(watched) >= 8
    rng = random.Random(0)
    damages = [
        lambda path: flip(path, rng.randrange(path.stat().st_size)),
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: path.unlink(),
    ]
    expected = make_state(700)
    for number, (name, damage) in enumerate(itertools.product(watched, damages)):
        copy = shutil.copytree(saved, tmp_path / str(number))
        damage(copy / name)
        step, state = Checkpoints(copy).restore(expected)
        assert step == 700, name
        assert_identical(state, expected)
    assert len(warnings) == 3 * len(watched)


def test_damage_outside_the_state_is_harmless(saved, tmp_path):
    names = [path.name for path in (saved / "00001200").iterdir() if path.is_file()]
    assert "_CHECKPOINT_METADATA" in names
    for name, cut in itertools.product(names, (0, 10)):
        copy = shutil.copytree(saved, tmp_path / f"{name}-{cut}")
        os.truncate(copy / "00001200" / name, cut)
        checkpoints = Checkpoints(copy)
        assert_identical(checkpoints.restore(make_state(0))[1], make_state(1200))
        checkpoints.save(1300, make_state(1300))
        checkpoints.close()
        assert checkpoints.steps() == [700, 1200, 1300]


def test_damaged_checkpoint_is_set_aside(directory, warnings):
    for round_number in (1, 2):
        checkpoints = Checkpoints(directory)
        shutil.rmtree(directory / "00001200" / "state" / "ocdbt.process_0")
        step, _ = checkpoints.restore(make_state(0))
        assert step == 700 and checkpoints.steps() == [700]
        assert len(warnings) == round_number
        assert f"{directory}, going back to step 700: step 1200, " in warnings[-1]
        assert "is missing" in warnings[-1] and "\n" not in warnings[-1]
        checkpoints.save(1200, make_state(1200))
        checkpoints.wait()
        assert_identical(checkpoints.restore(make_state(0))[1], make_state(1200))
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["00000700", "00001200", "damaged-00001200", "damaged-00001200-2"]


def test_set_aside_between_saves(directory, warnings):
    """An object that has saved already forgets a step that turns out to be damaged."""
    checkpoints = Checkpoints(directory, keep=5)
    checkpoints.save(1300, make_state(1300))
    checkpoints.wait()
    shutil.rmtree(directory / "00001300" / "state")
    assert checkpoints.restore(make_state(0))[0] == 1200
    checkpoints.save(1300, make_state(1300))
    checkpoints.close()
    assert checkpoints.restore(make_state(0))[0] == 1300
    assert len(warnings) == 1


def test_no_whole_checkpoint(directory):
    for step in ("00000700", "00001200"):
        os.truncate(directory / step / "state" / "manifest.ocdbt", 5)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=f"^no checkpoint in {directory} is whole: step 1200, "
        ):
            Checkpoints(directory).restore(make_state(0))
    assert Checkpoints(directory).steps() == [700, 1200]


def other_models() -> dict[str, tuple[State, str]]:
    state = make_state(0)
    dense = state.params["dense"]
    wide = {**state.params, "dense": {**dense, "kernel": jnp.zeros((8, 6))}}
    half = {**state.params, "dense": {**dense, "kernel": jnp.zeros((8, 5), jnp.float16)}}
    short = {name: leaf for name, leaf in state.params.items() if name != "half"}
    impl = {**state.key, "one": jax.random.key(0, impl="rbg")}
    kernel = r"\.params\['dense'\]\['kernel'\] is float32\[8, 5\] there and "
    return {
        "shape": (state._replace(params=wide), kernel + r"float32\[8, 6\] here"),
        "dtype": (state._replace(params=half), kernel + r"float16\[8, 5\] here"),
        "fewer": (
            state._replace(params=short),
            r"\['half'\] is bfloat16\[6\] there and absent here",
        ),
        "more": (state._replace(average=wide), r"\.average.* is absent there and float32"),
        "key": (state._replace(key=impl), r"key<fry>\[\] there and key<rbg>\[\] here"),
    }


@pytest.mark.parametrize("kind", ["shape", "dtype", "fewer", "more", "key"])
def test_checkpoint_of_another_model(directory, kind, warnings):
    target, difference = other_models()[kind]
    with pytest.raises(
        ValueError, match=f"^the checkpoint {directory}/.* another model: .*{difference}"
    ):
        Checkpoints(directory).restore(target)
    flip(directory / "00001200" / "state" / "_METADATA", 40)
    with pytest.raises(ValueError, match="of another model"):
        Checkpoints(directory).restore(target)
    assert Checkpoints(directory).steps() == [700, 1200] and warnings == []


def test_checkpoint_of_a_newer_version(directory, monkeypatch, warnings):
    """Known before anything of it is read; the one before is not taken in its place."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_NEWEST_FORMAT", 2)
        with Checkpoints(directory) as checkpoints:
            checkpoints.save(1300, {"x": jnp.float32(1)})
    with pytest.raises(ValueError, match="by a newer version of avb_jax: format 2, allowed is up"):
        Checkpoints(directory).restore(make_state(0))
    assert 1300 in Checkpoints(directory).steps() and warnings == []


def test_failed_save_is_raised_and_can_be_repeated(tmp_path, monkeypatch):
    def full(directory):
        raise OSError("no space left")

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": jnp.float32(1)})
    checkpoints.wait()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_digests", full)
        checkpoints.save(2, {"x": jnp.float32(2)})
        with pytest.raises(OSError, match="no space left"):
            checkpoints.wait()
    assert checkpoints.restore({"x": jnp.float32(0)})[0] == 1
    checkpoints.save(2, {"x": jnp.float32(2)})
    checkpoints.close()
    assert checkpoints.restore({"x": jnp.float32(0)})[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001", "00000002"]
