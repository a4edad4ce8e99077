"""Whoever imports the package sees types: it says so, and every public function has them."""

import inspect
from pathlib import Path

import pytest

import avb_jax as avb
from avb_jax import contrast, data, evaluation, objectives

PUBLIC = {
    **{f"avb_jax.{name}": getattr(avb, name) for name in avb.__all__},
    **{f"data.{name}": getattr(data, name) for name in data.__all__},
    **{f"evaluation.{name}": getattr(evaluation, name) for name in evaluation.__all__},
    **{
        f"{module.__name__}.{name}": value
        for module in (contrast, objectives)
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
    },
}


def functions():
    """Each public function, and each public method that the package writes itself."""
    for name, value in PUBLIC.items():
        if inspect.isclass(value):
            for method, function in vars(value).items():
                written = inspect.isfunction(function) and "<" not in function.__code__.co_filename
                if written and function.__doc__ and not method.startswith("_"):
                    yield f"{name}.{method}", function
        elif callable(value):
            yield name, inspect.unwrap(value)


@pytest.mark.parametrize("function", dict(functions()).values(), ids=dict(functions()).keys())
def test_every_argument_and_result_has_a_type(function):
    signature = inspect.signature(function)
    arguments = [p.annotation for p in signature.parameters.values() if p.name != "self"]
    assert inspect.Parameter.empty not in [*arguments, signature.return_annotation]


def test_the_package_says_that_it_is_typed():
    assert (Path(avb.__file__).parent / "py.typed").exists()
