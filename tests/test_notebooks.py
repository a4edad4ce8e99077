"""The notebooks, executed from top to bottom at sizes of seconds, and what is stored of them."""

import ast
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
REPOSITORY = re.search(r'url="https://github.com/(.*)"', (ROOT / "setup.py").read_text())[1]
STORED_KB = 300  # of all notebooks together
# What their cell of constants is set to here.
SMALL = {
    "01_first_avb": {"NUM_STEPS": 20, "VAE_STEPS": 20, "STEPS_PER_CALL": 10, "DRAWS": 50},
    "02_mnist": {
        "DATA_DIR": "nowhere",
        "NUM_STEPS": 20,
        "WIDTH": 16,
        "TEST_IMAGES": 50,
        "EVALUATION_SAMPLES": 20,
    },
    "03_your_own_model": {"NUM_STEPS": 20, "TRANSITIONS": 2, "DRAWS": 50},
    "04_inside_the_step": {"NUM_STEPS": 40, "NUM_SAMPLES": 8, "WIDTH": 8, "DRAWS": 50},
    "05_many_devices": {"NUM_STEPS": 3, "BATCH_SIZE": 8, "WIDTH": 8},
}


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def constants(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The one cell tagged `parameters`."""
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    return cell


def execute(path: Path, workdir: Path, **changes) -> str:
    """What the notebook prints, run in `workdir` with other constants."""
    notebook = read(path)
    cell = constants(notebook)
    names = {target.id for line in ast.parse(cell.source).body for target in line.targets}
    assert changes.keys() <= names
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in changes.items())
    resources = {"metadata": {"path": str(workdir)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [output for c in notebook.cells if c.cell_type == "code" for output in c.outputs]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


@pytest.fixture(autouse=True)
def this_checkout(monkeypatch, tmp_path):
    """Kernels import this avb_jax, and keep to themselves what they cache."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, tmp_path):
    printed = execute(path, tmp_path, **SMALL[path.stem])
    assert "×" in printed  # the devices
    if path.stem == "01_first_avb":
        assert "the best possible: -1.3863" in printed
    if path.stem == "02_mnist":
        assert "is not prepared" in printed and "log p(x) ≥ -" in printed
    if path.stem == "03_your_own_model":
        assert "log evidence ≥ -" in printed and "posterior_predictive" in printed
    if path.stem == "04_inside_the_step":
        assert "'exp_as_written' has its optimum at T = 0" in printed
    if path.stem == "05_many_devices":
        assert "4 × cpu" in printed and "one device, sharded: " in printed


@pytest.mark.slow
def test_many_devices_may_be_one(tmp_path):
    path = ROOT / "experiments" / "notebooks" / "05_many_devices.ipynb"
    printed = execute(path, tmp_path, **SMALL[path.stem], HOST_DEVICES=1)
    assert "1 × cpu" in printed


@pytest.mark.slow
def test_mnist_is_taken_where_it_is_prepared(tfds_dir, tmp_path):
    path = ROOT / "experiments" / "notebooks" / "02_mnist.ipynb"
    printed = execute(path, tmp_path, **{**SMALL[path.stem], "DATA_DIR": str(tfds_dir)})
    assert "mnist {'train': 50000" in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_opens_on_colab_and_stores_figures_alone(path):
    notebook = read(path)
    of_this = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/experiments"
    assert f"{of_this}/notebooks/{path.name})" in notebook.cells[0].source
    install = next(c for c in notebook.cells if c.cell_type == "code").source
    assert 'find_spec("avb_jax") is None' in install
    assert f"git+https://github.com/{REPOSITORY}" in install
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None
            assert all(output.data.keys() == {"image/png"} for output in cell.outputs)


def test_what_is_stored_is_small():
    assert NOTEBOOKS
    assert sum(path.stat().st_size for path in NOTEBOOKS) < STORED_KB * 1000
