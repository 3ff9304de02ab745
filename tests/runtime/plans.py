"""Hand-made plans of simple kernels, so that these tests need neither a model nor the lowering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planish.backends.tvm.compat import IRBuilder, T, tirx
from planish.backends.tvm.plan import Kernel, PackedWeight, Plan, Step, Value
from planish.backends.tvm.symbol import kernel_symbol
from planish.backends.tvm.target import Target, parse_target
from planish.ir.signature import Signature, TensorSpec


def elementwise(arity: int, shape: tuple[int, ...], body: Callable[..., Any], dtype: str = "float32") -> Any:
    """y[i] = body(x0[i], x1[i], ...): parallel over the outermost axis; every buffer at element alignment."""
    size = int(np.prod(shape))
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        names = [f"x{i}" for i in range(arity)] + ["y"]
        itemsize = np.dtype(dtype).itemsize
        buffers = [T.match_buffer(T.arg(n, T.handle()), shape, dtype, align=itemsize) for n in names]
        rows = next((r for r in (16, 8, 4, 2) if size % r == 0), 1)
        with T.parallel(0, rows) as i, T.serial(0, size // rows) as j:
            index = _unravel(i * (size // rows) + j, shape)
            T.buffer_store(buffers[-1], body(*(b[tuple(index)] for b in buffers[:-1])), index)
    return builder.get()


def _unravel(flat: Any, shape: tuple[int, ...]) -> list[Any]:
    index = []
    for extent in reversed(shape):
        index.append(tirx.floormod(flat, extent))
        flat = tirx.floordiv(flat, extent)
    return list(reversed(index))


class Builder:
    """Collects a plan step by step; every method returns the name of a value."""

    def __init__(self, target: Target | None = None) -> None:
        self.target = target or parse_target("native")
        self.plan = Plan({}, {}, {}, [], (), ())
        self.weights: dict[str, np.ndarray] = {}

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> str:
        self.plan.values[name] = Value(name, shape, dtype, external=True)
        self.plan.inputs += (name,)
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights[name] = array
        self.plan.weights[name] = PackedWeight(name, name, np.ascontiguousarray)
        return name

    def call(self, name: str, body: Callable[..., Any], *inputs: str, layer: str = "", func: Any = None) -> str:
        first = self.plan.values[next(i for i in inputs if i in self.plan.values)]
        func = func if func is not None else elementwise(len(inputs), first.shape, body, first.dtype)
        symbol = kernel_symbol(func, self.target)
        self.plan.kernels[symbol] = Kernel(symbol, func, "elementwise", {"rows": 16})
        self.plan.values[name] = Value(name, first.shape, first.dtype)
        size = int(np.prod(first.shape))
        layers = (layer or f"layers.{name}",)
        self.plan.steps.append(Step(symbol, inputs, name, name, "pointwise", layers, flops=size))
        return name

    def view(self, name: str, source: str, shape: tuple[int, ...]) -> str:
        base = self.plan.values[source]
        self.plan.values[name] = Value(name, shape, base.dtype, external=base.external)
        self.plan.steps.append(Step("", (source,), name, name, "view", ()))
        return name

    def outputs(self, *names: str) -> Builder:
        self.plan.outputs = names
        return self

    @property
    def signature(self) -> Signature:
        inputs = [TensorSpec(n, self._value(n).dtype, self._value(n).shape) for n in self.plan.inputs]
        specs = [(f"output.{i}", self._value(n)) for i, n in enumerate(self.plan.outputs)]
        return Signature.of_tensors(inputs, [TensorSpec(n, v.dtype, v.shape) for n, v in specs])

    def _value(self, name: str) -> Value:
        if name in self.weights:
            array = self.weights[name]
            return Value(name, array.shape, array.dtype.name)
        return self.plan.values[name]


def scale_and_shift(shape: tuple[int, ...] = (4, 32), target: Target | None = None) -> Builder:
    """y = 3x + w, with w[i] = i, in two steps."""
    b = Builder(target)
    x = b.input("x", shape)
    w = b.weight("w", np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape))
    tripled = b.call("tripled", lambda v: v * tirx.const(3, "float32"), x, layer="stem.conv")
    b.call("y", lambda v, u: v + u, tripled, w, layer="head.fc")
    return b.outputs("y")


def expected_scale_and_shift(x: np.ndarray) -> np.ndarray:
    return 3 * x + np.arange(x.size, dtype=np.float32).reshape(x.shape)


def names_of(steps: Sequence[Step]) -> list[str]:
    return [step.region for step in steps]
