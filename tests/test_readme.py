"""What the README says, done."""

import ast
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_import_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(code, names)
    assert names["z"].shape == (5, 128, 8)
    assert np.isfinite(names["metrics"]["elbo_estimate"])


def test_the_pictures_are_there():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).exists()


def parts_imported(path):
    """Modules and packages right below `avb_jax` that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "avb_jax":
            _, *parts = node.module.split(".")
            yield from parts[:1] or [alias.name for alias in node.names]


def test_each_part_imports_only_what_stands_before_it():
    listed = re.search(r"Pure functions from top to bottom: (.*?)Each imports", README, re.DOTALL)
    order = re.findall(r"`(\w+)/?`", listed[1])
    package = ROOT / "avb_jax"
    for path in package.rglob("*.py"):
        part = path.relative_to(package).parts[0].removesuffix(".py")
        if part != "__init__":
            allowed = order[: order.index(part) + 1]
            assert set(parts_imported(path)) <= set(allowed), path
