"""Weights in one file: a run that comes back bit for bit, and files that are not to be trusted."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import avb_jax as avb

TINY = avb.Config(
    dataset="four_images", latent_dim=2, width=8, depth=1, critic_width=8, critic_depth=1,
    critic_trunk_width=8, critic_trunk_depth=1, batch_size=4, compute_dtype="bfloat16",
)  # fmt: skip


@pytest.fixture
def run(key):
    model = avb.build_model(TINY.evaluated, (2, 2, 1))
    return avb.Run(TINY, model, model.init(key), step=17)


def test_a_run_comes_back_bit_for_bit(run, tmp_path):
    path = avb.save_weights(run, tmp_path / "new" / "weights.safetensors")
    again = avb.load(path)
    assert (again.config, again.step, again.model.event_shape) == (TINY, 17, (2, 2, 1))
    assert jax.tree.structure(again.params) == jax.tree.structure(run.params)
    for ours, theirs in zip(*map(jax.tree.leaves, (run.params, again.params)), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    x, key = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1), jax.random.key(1)
    z, same = (r.model.sample_posterior(r.params, key, x, 3) for r in (run, again))
    np.testing.assert_array_equal(np.asarray(z), np.asarray(same))


def test_other_software_reads_names_and_configuration(run, tmp_path):
    from safetensors import safe_open

    path = avb.save_weights(run, tmp_path / "weights.safetensors")
    tensors = load_file(path)
    assert len(tensors) == len(jax.tree.leaves(run.params))
    assert {name.split(".")[0] for name in tensors} == {"encoder", "decoder", "critic"}
    decoder = {name for name in tensors if name.startswith("decoder.params.")}
    assert any(name.endswith(".kernel") for name in decoder)
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
    assert json.loads(about["config"])["latent_dim"] == 2
    assert (about["event_shape"], about["step"]) == ("2 2 1", "17")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def change_the_step(path):
    content = path.read_bytes()
    assert content.count(b'"step":"17"') == 1
    path.write_bytes(content.replace(b'"step":"17"', b'"step":"71"'))


def of_other_software(path):
    save_file({"weight": np.zeros((2, 2), np.float32)}, path)


DAMAGE = {
    cut_short: "no whole safetensors file",
    flip_a_bit: "are damaged",
    change_the_step: "are damaged",
    of_other_software: "of format None; allowed is 'avb_jax 1'",
    lambda path: path.write_bytes(b"not at all"): "no whole safetensors file",
    lambda path: path.unlink(): "do not exist",
}


@pytest.mark.parametrize(("damage", "said"), DAMAGE.items(), ids=range(len(DAMAGE)))
def test_a_file_that_is_not_what_was_written_is_a_sentence(run, tmp_path, damage, said):
    path = avb.save_weights(run, tmp_path / "weights.safetensors")
    damage(path)
    with pytest.raises(ValueError, match=f"the weights .*weights.safetensors .*{said}"):
        avb.load(path)


def test_weights_of_another_model_and_a_path_of_another_kind(run, tmp_path):
    path = avb.save_weights(run, tmp_path / "weights.safetensors")
    wider = avb.build_model(dataclasses.replace(TINY, width=9), (2, 2, 1))
    with pytest.raises(ValueError, match="are of another model: .* there and .* here"):
        avb.load(path, model=wider)
    with pytest.raises(ValueError, match="weights.npz; allowed is one that ends in .safetensors"):
        avb.save_weights(run, tmp_path / "weights.npz")
