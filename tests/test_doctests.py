"""The examples in docstrings print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import avb_jax

ROOT = Path(avb_jax.__file__).parent
# By their sources: some modules need an extra to be imported.
SHOWN = [
    importlib.import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", SHOWN, ids=lambda module: module.__name__)
def test_examples_are_true(module):
    failed, attempted = doctest.testmod(module)
    assert attempted and not failed


def test_there_are_examples():
    assert {module.__name__ for module in SHOWN} >= {"avb_jax.objectives", "avb_jax.config"}
