"""The matrix products and convolutions of a traced function, and what they take on their own.

They are read from its jaxpr: what nothing depends on is left out, and what is computed twice from
the same values is counted once, as XLA does.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

PRODUCTS = ("dot_general", "conv_general_dilated")
CALLS = {  # primitives that run a jaxpr, under this name, once, or `length` times
    "jit": "jaxpr", "scan": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
}  # fmt: skip


class Product(NamedTuple):
    """One matrix product or convolution, by itself.

    Attributes:
        run: (left, right) -> result.
        operands: the shape and dtype of both.
        text: of its jaxpr; the same for the same shapes.
    """

    run: Callable
    operands: tuple[jax.ShapeDtypeStruct, ...]
    text: str


class _Equation(NamedTuple):
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    product: Product | None
    times: int


class _Reader:
    """Equations over numbered values, those of the jaxprs within among them."""

    def __init__(self):
        self.equations: list[_Equation] = []
        self._values, self._known = {}, {}

    def number(self, key) -> int:
        return self._values.setdefault(key, len(self._values))

    def read(self, jaxpr: Jaxpr, consts: list[int], inputs: list[int], times: int) -> list[int]:
        """Numbers of the outputs."""
        of = dict(zip(jaxpr.constvars, consts, strict=True))
        of |= dict(zip(jaxpr.invars, inputs, strict=True))

        def value(atom) -> int:
            return self.number(str(atom.val)) if isinstance(atom, Literal) else of[atom]

        for eqn in jaxpr.eqns:
            found = self._outputs(eqn, tuple(map(value, eqn.invars)), times)
            of |= dict(zip(eqn.outvars, found, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def _outputs(self, eqn, inputs: tuple[int, ...], times: int) -> list[int]:
        inner = eqn.params.get(CALLS.get(eqn.primitive.name))
        if inner is not None:
            count = times * eqn.params.get("length", 1)
            jaxpr, consts = (
                (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, [])
            )
            return self.read(jaxpr, [self.number(id(c)) for c in consts], list(inputs), count)
        text = f"{eqn.primitive.name} {sorted(eqn.params.items(), key=lambda p: p[0])}"
        # A result that two equations would both give has one number.
        outputs = tuple(self.number((text, inputs, i)) for i in range(len(eqn.outvars)))
        if outputs and outputs[0] not in self._known:
            self._known[outputs[0]] = True
            product = _product(eqn) if eqn.primitive.name in PRODUCTS else None
            self.equations.append(_Equation(inputs, outputs, product, times))
        return list(outputs)


def _product(eqn) -> Product:
    operands = tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars)
    params = {k: v for k, v in eqn.params.items() if k != "out_sharding"}
    run = partial(eqn.primitive.bind, **eqn.params)
    return Product(run, operands, f"{eqn.primitive.name} {operands} {params}")


def products_of(function: Callable, *arguments) -> list[Product]:
    """Those that a call of `function` must do, each as often as it does it."""
    traced = jax.make_jaxpr(function)(*arguments)
    reader = _Reader()
    inputs = [reader.number(("input", i)) for i in range(len(traced.jaxpr.invars))]
    consts = [reader.number(("constant", i)) for i in range(len(traced.consts))]
    needed = set(reader.read(traced.jaxpr, consts, inputs, 1))
    found = []
    for equation in reversed(reader.equations):
        if needed.isdisjoint(equation.outputs):
            continue
        needed.update(equation.inputs)
        if equation.product is not None:
            found += [equation.product] * equation.times
    return found[::-1]


def flops_of(products: list[Product]) -> float:
    """By XLA's own count."""
    counts = {}
    for product in products:
        if product.text not in counts:
            lowered = jax.jit(product.run).lower(*product.operands)
            counts[product.text] = lowered.cost_analysis()["flops"]
    return sum(counts[product.text] for product in products)


def one_by_one(products: list[Product]) -> Callable[[], None]:
    """A function that does them all, each as an XLA call of its own."""
    rng, compiled, calls = np.random.default_rng(0), {}, []
    for product in products:
        if product.text not in compiled:
            operands = [
                jax.numpy.asarray(rng.standard_normal(o.shape), o.dtype) for o in product.operands
            ]
            compiled[product.text] = (jax.jit(product.run), operands)
        calls.append(compiled[product.text])

    def run() -> None:
        jax.block_until_ready([call(*operands) for call, operands in calls])

    return run
