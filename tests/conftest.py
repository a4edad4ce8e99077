"""The tests' environment: four CPU devices, and no silent promotion of dtypes or ranks."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Set before jax starts its backend. NPROC sizes XLA's thread pool: collectives over several host
# devices deadlock when it is as small as the machine's number of cores.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["NPROC"] = "16"
# Most of the tests' time is compilation: its costly passes are left out.
QUICK = " --xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"
DEVICES = " --xla_force_host_platform_device_count=4"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + DEVICES + QUICK

# What was compiled once is found again, by the other workers and by commands that a test starts.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="avb_jax-tests-")
    os.environ["XDG_CACHE_HOME"] = CACHE.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{CACHE.name}/avb_jax/xla"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key() -> jax.Array:
    """The random key that tests start from."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def command_environment() -> dict[str, str]:
    """Of a command that a test starts: one device, and the tests' cache."""
    environment = {name: value for name, value in os.environ.items() if name != "NPROC"}
    root = Path(__file__).resolve().parent.parent
    return environment | {"XLA_FLAGS": QUICK, "PYTHONPATH": str(root)}


TRAIN = """
import avb_jax as avb
from avb_jax import experiment
from avb_jax.config import load_config
experiment.define_training_flags()
experiment.run_command(lambda path, workdir: avb.train(load_config(path), workdir), arguments=True)
"""


@pytest.fixture(scope="session")
def start_process(command_environment) -> Callable[..., subprocess.Popen]:
    """Starts Python on a program's text, with `devices` CPU devices."""

    def start(program: str, *arguments, devices: int = 1, **options) -> subprocess.Popen:
        flags = f"{QUICK} --xla_force_host_platform_device_count={devices}"
        environment = command_environment | {"XLA_FLAGS": flags, "NPROC": "32"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.Popen(command, **({"env": environment} | pipes | options))

    return start


@pytest.fixture(scope="session")
def start_training(start_process) -> Callable[..., subprocess.Popen]:
    """Starts a process that trains as `config` says in `workdir`, as a command line would."""

    def start(config, workdir: Path, *flags: str, **options) -> subprocess.Popen:
        path = workdir.with_suffix(".json")
        path.write_text(config.to_json())
        return start_process(TRAIN, *flags, path, workdir, **options)

    return start


@pytest.fixture
def two_processes() -> Callable[[], list[list[str]]]:
    """The flags of either process of a run, at an address of its own each time."""

    def flags() -> list[list[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        both = ["--distributed", f"--coordinator_address={address}", "--num_processes=2"]
        return [[*both, f"--process_id={i}"] for i in range(2)]

    return flags


@pytest.fixture(scope="session")
def tfds_dir() -> Path:
    """The directory of prepared data sets beside the repository; skips where there is none."""
    directory = Path(__file__).parents[1].parent / "shared" / "tensorflow_datasets"
    if not directory.is_dir():
        pytest.skip(f"needs prepared data sets in {directory}")
    return directory
