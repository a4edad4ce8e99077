"""The examples in docstrings print what they say."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import avb_jax

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(avb_jax.__path__, "avb_jax.")
]
SHOWN = [module for module in MODULES if ">>> " in inspect.getsource(module)]


@pytest.mark.parametrize("module", SHOWN, ids=lambda module: module.__name__)
def test_examples_are_true(module):
    failed, attempted = doctest.testmod(module)
    assert attempted and not failed


def test_there_are_examples():
    assert {module.__name__ for module in SHOWN} >= {"avb_jax.objectives", "avb_jax.config"}
