"""Checkpoints of a process that is killed while it saves, and what they leave alone in others."""

import random
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
from absl import logging

from avb_jax.checkpoint import Checkpoints

SAVE_FOR_EVER = """
import sys
import jax.numpy as jnp
from avb_jax.checkpoint import Checkpoints

checkpoints = Checkpoints(sys.argv[1])
found = checkpoints.restore({"x": jnp.zeros((300, 1000), jnp.int32)})
step = 0 if found is None else found[0]
while True:
    step += 1
    checkpoints.save(step, {"x": jnp.full((300, 1000), step)})
    print(step, flush=True)
"""


def test_killed_during_a_save(tmp_path, monkeypatch):
    """SIGKILL at four moments, in one directory: nothing damaged, nothing lost, nothing left."""
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda *arguments: warnings.append(arguments))
    target = {"x": jnp.zeros((300, 1000), jnp.int32)}
    rng = random.Random(0)
    newest = 0
    for _ in range(4):
        command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert int(process.stdout.readline()) == newest + 1
                begun = int(process.stdout.readline())
                time.sleep(rng.uniform(0.0, 0.1))
            finally:
                process.kill()
        step, state = Checkpoints(tmp_path).restore(target)
        assert step >= begun - 1  # a save begins when the one before is durable
        np.testing.assert_array_equal(state["x"], step)
        newest = step
    assert warnings == []
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(newest + 1, target)
    checkpoints.close()
    assert all(path.name.isdigit() for path in tmp_path.iterdir())


def test_log_has_no_chatter(tmp_path, caplog):
    with caplog.at_level("INFO", logger="absl"):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, {"x": jnp.float32(1)})
        checkpoints.close()
        logging.info("of one's own")
    assert [record.getMessage() for record in caplog.records] == ["of one's own"]


def test_orbax_is_imported_when_it_is_needed():
    code = "import avb_jax.checkpoint, sys; print('orbax' in ' '.join(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
