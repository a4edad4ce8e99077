"""What importing the package leaves for later."""

import subprocess
import sys

HEAVY = (
    "tensorflow_datasets", "orbax", "matplotlib", "scipy", "sklearn", "arviz", "blackjax", "grain",
    "pandas", "PIL",
)  # fmt: skip
PROGRAM = f"""
import sys
import avb_jax, avb_jax.experiment
print(*(name for name in {HEAVY} if name in sys.modules))
"""


def test_importing_loads_nothing_heavy(command_environment):
    """The package, and what its command lines share."""
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, env=command_environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
