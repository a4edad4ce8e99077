"""One step on any number of devices and processes, in both modes: the same numbers."""

import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
import avb_jax as avb
from avb_jax import processes
from avb_jax.parallel import compile_step

mode, noise, path, *joining = sys.argv[1:]
if joining:
    processes.join(joining[0], 2, int(joining[1]))
small = dict(width=16, depth=1, batch_size=16, latent_dim=2, critic_width=16, critic_depth=1,
             critic_trunk_width=16, num_bases=4, binarization="threshold", num_steps=200)
config = avb.Config(**small, encoder="basis" if noise == "noisy" else "gaussian")
model = avb.build_model(config, (4, 4, 1))
if noise != "noisy":
    noisy = model.encode
    def encode(params, key, x, num_samples):
        density = noisy(params, key, x, 1).density
        return avb.Encoding(density.mean[None], density=density)
    model = model._replace(encode=encode)
optimizers = avb.build_optimizers(config)
step = compile_step(avb.make_train_step(model, optimizers, config), mode)
state = avb.init_state(model, optimizers, jax.random.key(0))
images = np.random.default_rng(0).integers(0, 256, (200, 16, 4, 4, 1), np.uint8)
part, parts = jax.process_index(), jax.process_count()
rows = slice(part * 16 // parts, (part + 1) * 16 // parts)
curve = []
for number, batch in enumerate(images):
    state, metrics = step(state, batch[rows])
    curve.append(float(metrics["elbo_estimate"].addressable_data(0)))
    if number == 0:
        leaves = [np.asarray(leaf.addressable_data(0)) for leaf in jax.tree.leaves(state.params)]
        first = np.concatenate([leaf.ravel() for leaf in leaves])
if processes.is_first():
    np.savez(path, first=first, curve=curve)
"""
ONE_STEP, CURVE = 1e-5, 1e-3  # relative: of all the parameters' norm, and of each loss


@pytest.fixture(scope="module")
def run(start_process, tmp_path_factory):
    """The parameters after one step, and the losses of 200, as (mode, noise, processes, devices)
    take them."""
    folder, found = tmp_path_factory.mktemp("runs"), {}

    def of(two_processes, mode: str, noise: str, processes: int, devices: int):
        case = (mode, noise, processes, devices)
        if case not in found:
            path = folder / f"{'-'.join(map(str, case))}.npz"
            joining = [[]]
            if processes == 2:
                address = two_processes()[0][1].split("=")[1]
                joining = [[address, i] for i in range(2)]
            own = devices // processes
            running = [start_process(PROGRAM, *case[:2], path, *j, devices=own) for j in joining]
            found[case] = _results(running, path)
        return found[case]

    return of


def _results(running: list[subprocess.Popen], path: Path):
    for process in running:
        _, complaint = process.communicate(timeout=300)
        assert process.returncode == 0, complaint
    return np.load(path)


def assert_agree(one, other) -> None:
    difference = np.linalg.norm(one["first"] - other["first"])
    assert difference < ONE_STEP * np.linalg.norm(one["first"])
    np.testing.assert_allclose(one["curve"], other["curve"], rtol=CURVE)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 2), (1, 4), (1, 8), (2, 2), (2, 4), (2, 8)])
@pytest.mark.parametrize("noise", ["noisy", "noiseless"])
def test_jit_on_many_devices_is_jit_on_one(run, two_processes, noise, processes, devices):
    """The noise is the same too."""
    of = itertools.starmap(run, [
        (two_processes, "jit", noise, 1, 1), (two_processes, "jit", noise, processes, devices)
    ])  # fmt: skip
    assert_agree(*of)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices"), [(1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (2, 4), (2, 8)]
)
def test_pmap_without_noise_is_jit(run, two_processes, processes, devices):
    assert_agree(
        run(two_processes, "jit", "noiseless", 1, 1),
        run(two_processes, "pmap", "noiseless", processes, devices),
    )


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_pmap_in_two_processes_is_pmap_in_one(run, two_processes, devices):
    """Each device has noise of its own, whichever process it belongs to."""
    assert_agree(*(run(two_processes, "pmap", "noisy", count, devices) for count in (1, 2)))
