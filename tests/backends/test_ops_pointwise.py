"""Every pointwise operator of the scalar table against eager PyTorch, in every dtype that PyTorch takes.

Inputs hold NaN, infinities, both zeros, denormals and the extremes of integers; all operators are compiled as one
module. What PyTorch itself leaves undefined (integer division by zero, float to integer out of range) is kept out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close_to_reference
from torch import fx

from planish.backends.tvm.compat import IRBuilder, T, tvm
from planish.backends.tvm.ops.lanes import lane_loop
from planish.backends.tvm.ops.pointwise import POINTWISE, evaluate, is_pointwise, refusal
from planish.backends.tvm.target import Target

aten = torch.ops.aten
LANES = 16
COUNT = 1040

FLOATS = ("float32", "float64")
INTS = ("int64", "int32", "int8", "uint8")
ALL = (*FLOATS, *INTS, "bool")


@dataclass(frozen=True)
class Case:
    """One call: X in `args` stands for a tensor of the dtype in turn, "bool" for a condition."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = FLOATS
    domain: str = "any"
    exact: bool = False

    def __str__(self) -> str:
        return f"{self.op}{self.args}{self.kwargs}"


X = "tensor"
UNARY = (
    *("relu", "silu", "mish", "log_sigmoid", "selu", "hardsigmoid", "hardswish", "sigmoid", "tanh", "exp", "exp2"),
    *("expm1", "log", "log2", "log10", "log1p", "erf", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh"),
    *("asinh", "acosh", "atanh", "sqrt", "rsqrt", "reciprocal", "frac"),
)
ROUND = ["floor", "ceil", "trunc", "round"]
TESTS = ["isnan", "isinf", "isfinite", "signbit"]


def cases() -> list[Case]:
    """Each operator with each kind of arguments."""
    found = [Case(getattr(aten, n).default, (X,)) for n in UNARY]
    found += [Case(getattr(aten, n).default, (X,), dtypes=("int64", "uint8", "bool")) for n in ("exp", "sqrt", "tanh")]
    found += [Case(getattr(aten, n).default, (X,), dtypes=(*FLOATS, *INTS), exact=True) for n in ROUND]
    found += [Case(getattr(aten, n).default, (X,), dtypes=(*FLOATS, *INTS), exact=True) for n in TESTS]
    found += [Case(getattr(aten, n).default, (X,), dtypes=(*FLOATS, *INTS), exact=True) for n in ("abs", "sign")]
    found += [Case(aten.neg.default, (X,), dtypes=(*FLOATS, *INTS), exact=True)]
    found += [Case(aten.square.default, (X,), dtypes=(*FLOATS, "int64"))]
    found += [Case(aten.relu.default, (X,), dtypes=INTS, exact=True), Case(aten.relu6.default, (X,))]
    found += [Case(aten.positive.default, (X,)), Case(aten.sgn.default, (X,))]
    # eager's float32 gelu makes NaN of infinity
    found += [Case(aten.gelu.default, (X,), {"approximate": a}, domain="finite") for a in ("none", "tanh")]
    found += [Case(aten.softplus.default, (X, *a)) for a in ((1.0, 20.0), (2.5, 3.0), (0.5, 20.0))]
    found += [Case(aten.elu.default, (X, *a)) for a in ((1.0, 1.0, 1.0), (0.7, 1.3, 0.5))]
    found += [Case(aten.celu.default, (X, 0.7)), Case(aten.leaky_relu.default, (X, 0.2))]
    found += [Case(aten.hardshrink.default, (X, 0.4)), Case(aten.softshrink.default, (X, 0.4))]
    found += [Case(aten.threshold.default, (X, 0.3, -2.0)), Case(aten._prelu_kernel.default, (X, X), domain="finite")]
    found += [Case(aten.logit.default, (X, e)) for e in (None, 0.1)]
    found += [Case(aten.hardtanh.default, (X, -0.5, 0.75)), Case(aten.nan_to_num.default, (X, 1.5, 2.5, -3.5))]
    found += [Case(aten.nan_to_num.default, (X,)), Case(aten.round.decimals, (X,), {"decimals": 2}, domain="finite")]
    found += [Case(aten.clamp.default, (X, *a)) for a in ((-1.0, 1.0), (None, 0.5), (0.5, None), (2.0, 1.0))]
    found += [Case(aten.clamp.default, (X, -3, 5), dtypes=("int64", "int32", "int8"), exact=True)]
    found += [Case(aten.clamp.Tensor, (X, X, X)), Case(aten.clamp_min.default, (X, 0.1))]
    found += [Case(aten.clamp_max.default, (X, 0.1)), Case(aten.clamp_min.Tensor, (X, X))]
    found += [Case(aten.clamp_max.Tensor, (X, X))]
    return found + arithmetic() + logic() + casts()


def arithmetic() -> list[Case]:
    """Binary and ternary operators."""
    numbers = (*FLOATS, *INTS)
    found = [Case(getattr(aten, n).Tensor, (X, b), dtypes=numbers) for n in ("add", "sub", "mul") for b in (X, 3)]
    found += [Case(getattr(aten, n).Tensor, (X, 2.5), dtypes=(*FLOATS, "int32")) for n in ("add", "sub", "mul", "div")]
    found += [Case(getattr(aten, n).Tensor, (X, X), dtypes=("bool",)) for n in ("add", "mul")]
    found += [Case(aten.add.Tensor, (X, X), {"alpha": 2}), Case(aten.sub.Tensor, (X, X), {"alpha": 0.5})]
    found += [Case(aten.rsub.Scalar, (X, 2.0, 1)), Case(aten.rsub.Tensor, (X, X))]
    found += [Case(aten.mul.Tensor, (X, 0.0)), Case(aten.div.Tensor, (X, X), dtypes=(*FLOATS, "int64", "bool"))]
    found += [Case(aten.div.Tensor_mode, (X, X), {"rounding_mode": m}, domain="nonzero", dtypes=(*FLOATS, *INTS))
              for m in ("floor", "trunc")]  # fmt: skip
    found += [Case(op, (X, X), domain="nonzero", dtypes=(*FLOATS, *INTS))
              for op in (aten.remainder.Tensor, aten.fmod.Tensor, aten.floor_divide.default)]  # fmt: skip
    found += [Case(op, (X, s), domain="nonzero", dtypes=(*FLOATS, "int64", "int8"))
              for op in (aten.remainder.Scalar, aten.fmod.Scalar) for s in (3, -3)]  # fmt: skip
    found += [Case(aten.pow.Tensor_Scalar, (X, n)) for n in (0, 1, 2, 3, 4, -1, -2, 0.5, -0.5, 2.3, 7)]
    found += [Case(aten.pow.Tensor_Scalar, (X, n), dtypes=("int64", "int32")) for n in (0, 1, 2, 5)]
    found += [Case(aten.pow.Tensor_Tensor, (X, X)), Case(aten.pow.Scalar, (2.0, X)), Case(aten.pow.Scalar, (0.3, X))]
    found += [Case(getattr(aten, n).default, (X, X), dtypes=(*numbers, "bool")) for n in ("maximum", "minimum")]
    found += [Case(aten.atan2.default, (X, X)), Case(aten.hypot.default, (X, X)), Case(aten.logaddexp.default, (X, X))]
    found += [Case(aten.xlogy.Tensor, (X, X)), Case(aten.copysign.Tensor, (X, X), exact=True)]
    found += [Case(aten.lerp.Scalar, (X, X, 0.3), domain="finite"), Case(aten.lerp.Tensor, (X, X, X), domain="finite")]
    found += [
        Case(aten.addcmul.default, (X, X, X), {"value": 0.5}),
        Case(aten.addcdiv.default, (X, X, X), {"value": 2}),
    ]
    return found


def logic() -> list[Case]:
    """Comparisons, truth values and bits."""
    compare = ("eq", "ne", "lt", "le", "gt", "ge")
    found = [Case(getattr(aten, n).Tensor, (X, X), dtypes=ALL, exact=True) for n in compare]
    found += [Case(getattr(aten, n).Scalar, (X, 1), dtypes=ALL, exact=True) for n in compare]
    found += [Case(getattr(aten, n).Scalar, (X, 0.5), dtypes=("float32", "int32"), exact=True) for n in compare]
    names = ("logical_and", "logical_or", "logical_xor")
    found += [Case(getattr(aten, n).default, (X, X), dtypes=ALL, exact=True) for n in names]
    found += [Case(aten.logical_not.default, (X,), dtypes=ALL, exact=True)]
    bits = ("bitwise_and", "bitwise_or", "bitwise_xor")
    found += [Case(getattr(aten, n).Tensor, (X, X), dtypes=(*INTS, "bool"), exact=True) for n in bits]
    found += [Case(aten.bitwise_not.default, (X,), dtypes=(*INTS, "bool"), exact=True)]
    found += [Case(aten.bitwise_and.Scalar, (X, 6), dtypes=INTS, exact=True)]
    found += [Case(aten.bitwise_left_shift.Tensor_Scalar, (X, 2), dtypes=("int64", "int32"), exact=True)]
    found += [Case(aten.bitwise_right_shift.Tensor_Scalar, (X, 2), dtypes=INTS, exact=True)]
    found += [Case(aten.where.self, ("bool", X, X), dtypes=(*ALL,), exact=True)]
    return [*found, Case(aten.where.ScalarOther, ("bool", X, -1.5), exact=True)]


def casts() -> list[Case]:
    """Every pair of dtypes."""
    return [
        Case(aten._to_copy.default, (X,), {"dtype": getattr(torch, to)}, dtypes=ALL, exact=True, domain="small")
        for to in ALL
    ]


def tensor(dtype: str, domain: str, seed: int) -> torch.Tensor:
    """Random numbers of all sizes, and what is special about the dtype."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return torch.from_numpy(rng.random(COUNT) < 0.5)
    if dtype.startswith("float"):
        x = rng.standard_normal(COUNT) * rng.choice([0.1, 1.0, 8.0], COUNT)
        special = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -1e-40, 1.0, -1.0, 0.5, 2.5, -2.5, 88.0, -100.0, 30.0]
        if domain in ("any", "nonzero"):
            x[: len(special) ** 2] = rng.permutation(np.tile(special, len(special)))
        x = x * 10 if domain == "small" else x
        x = np.where(np.abs(x) < 1e-30, 1.0, x) if domain == "nonzero" else x  # eager's fmod fails for denormals too
        return torch.from_numpy(x.astype(dtype))
    limit = np.iinfo(dtype)
    low, high = (0 if dtype == "uint8" or domain == "small" else -11, 12)
    x = rng.integers(low, high, COUNT).astype(dtype)
    if domain == "any" and dtype in ("int8", "uint8"):
        x[:4] = [limit.min, limit.max, limit.min, limit.max]
    return torch.from_numpy(np.where(x == 0, 1, x).astype(dtype) if domain == "nonzero" else x)


@dataclass(frozen=True)
class Call:
    """A case in one dtype, with its inputs and its node."""

    name: str
    case: Case
    inputs: list[torch.Tensor]
    node: fx.Node

    def function(self) -> Any:
        """A PrimFunc that evaluates the node at each element, with a vector that is not full at the end."""
        shape = (COUNT,)
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_attr({"tirx.noalias": True, "global_symbol": self.name})
            dtypes = [str(t.dtype).removeprefix("torch.") for t in (*self.inputs, self.node.meta["val"])]
            *reads, out = (T.match_buffer(T.arg(f"a{i}", T.handle()), shape, d) for i, d in enumerate(dtypes))
            buffers = dict(zip(self.node.all_input_nodes, reads, strict=True))

            def value(at: Any) -> Any:
                return evaluate(self.node, lambda n: buffers[n][at], lambda n, index: buffers[n][index[0]])

            full = COUNT // LANES - 1
            with T.serial(0, full) as i, lane_loop(LANES) as v:
                T.buffer_store(out, value(i * LANES + v), [i * LANES + v])
            for start, width in ((full * LANES, 13), (full * LANES + 13, 3)):
                with lane_loop(width) as v:
                    T.buffer_store(out, value(start + v), [start + v])
        return builder.get()


def make_call(number: int, case: Case, dtype: str) -> Call:
    """Inputs and an fx node for a case."""
    graph = fx.Graph()
    inputs: list[torch.Tensor] = []

    def argument(value: Any) -> Any:
        if value not in (X, "bool"):
            return value
        inputs.append(tensor("bool" if value == "bool" else dtype, case.domain, number * 8 + len(inputs)))
        node = graph.placeholder(f"x{len(inputs)}")
        node.meta["val"] = inputs[-1]
        return node

    args = tuple(argument(a) for a in case.args)
    node = graph.call_function(case.op, args, dict(case.kwargs))
    call = Call(f"f{number}_{dtype}", case, inputs, node)
    feed = iter(inputs)
    values = [next(feed) if isinstance(a, fx.Node) else a for a in args]
    node.meta["val"] = case.op(*values, **case.kwargs)
    return call


CALLS = {f"{case} {dtype}": (number, case, dtype) for number, case in enumerate(cases()) for dtype in case.dtypes}


@pytest.fixture(scope="module")
def compiled() -> dict[str, tuple[Call, Any]]:
    """Every call and the one module that holds them."""
    calls = {name: make_call(*spec) for name, spec in CALLS.items()}
    module = tvm.IRModule({c.name: c.function() for c in calls.values()})
    library = tvm.compile(module, target=Target.host(threads=1).tvm_target())
    return {name: (call, library[call.name]) for name, call in calls.items()}


def _wide(call: Call) -> torch.Tensor:
    """The result on float64 copies of the inputs."""
    values = {
        n: t.double() if t.is_floating_point() else t
        for n, t in zip(call.node.all_input_nodes, call.inputs, strict=True)
    }
    args, kwargs = fx.map_arg((call.node.args, dict(call.node.kwargs)), values.__getitem__)
    result: torch.Tensor = call.case.op(*args, **kwargs)
    return result


@pytest.mark.parametrize("name", CALLS)
def test_equals_eager(compiled: dict[str, tuple[Call, Any]], name: str) -> None:
    call, function = compiled[name]
    eager = call.node.meta["val"]
    out = tvm.runtime.tensor(np.zeros(COUNT, str(eager.dtype).removeprefix("torch.")))
    function(*(tvm.runtime.tensor(t.numpy()) for t in call.inputs), out)
    if call.case.exact or not eager.is_floating_point():
        np.testing.assert_array_equal(out.numpy(), eager.numpy())
        zero = (eager == 0).numpy() & bool(eager.is_floating_point())
        if call.case.op not in (aten.maximum.default, aten.minimum.default):
            np.testing.assert_array_equal(np.signbit(out.numpy()[zero]), np.signbit(eager.numpy()[zero]))
        return
    assert_close_by_magnitude(out.numpy(), _wide(call), eager)


def assert_close_by_magnitude(actual: np.ndarray, exact: torch.Tensor, eager: torch.Tensor) -> None:
    """The usual comparison, in bands of the result's size, so that a small result is not lost beside a large one."""
    if eager.dtype is torch.float64:
        assert_close_to_reference(actual, exact, eager)
        return
    size = exact.double().abs().nan_to_num(0.0, 0.0)
    odd = ~torch.isfinite(eager)
    for low, high in ((0.0, 1e-30), (1e-30, 1e-3), (1e-3, 1.0), (1.0, 1e3), (1e3, 1e30), (1e30, 1e400)):
        band = ((size >= low) & (size < high)) | odd
        assert_close_to_reference(actual[band.numpy()], exact[band], eager[band])


def test_every_operator_is_tested() -> None:
    tested = {case.op for case in cases()}
    spelled_otherwise = {op for op in POINTWISE if "Scalar" in str(op) or str(op) in ("aten.true_divide.Tensor",)}
    shifts = {aten.bitwise_left_shift.Tensor, aten.bitwise_right_shift.Tensor}
    assert set(POINTWISE) - tested - spelled_otherwise - shifts == set()


def node_of(op: Any, *tensors: torch.Tensor, extra: tuple[Any, ...] = ()) -> fx.Node:
    """A call of `op` with placeholders for tensors."""
    graph = fx.Graph()
    nodes = [graph.placeholder(f"x{i}") for i in range(len(tensors))]
    for node, value in zip(nodes, tensors, strict=True):
        node.meta["val"] = value
    call = graph.call_function(op, (*nodes, *extra))
    call.meta["val"] = op(*tensors, *extra)
    return call


def test_refusals() -> None:
    x = torch.ones(3)
    assert is_pointwise(node_of(aten.relu.default, x))
    assert not is_pointwise(node_of(aten.cumsum.default, x, extra=(0,)))
    assert "float16" in str(refusal(node_of(aten.relu.default, x.half())))
    assert "exponent" in str(refusal(node_of(aten.pow.Tensor_Tensor, x.long(), x.long())))


def _run_with_itself(op: Callable[..., Any]) -> np.ndarray:
    """op(x, x) on a vector with NaN in it."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(16)
    node = graph.call_function(op, (x, x))
    node.meta["val"] = torch.zeros(16, dtype=torch.bool)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        source = T.match_buffer(T.arg("x", T.handle()), (16,), "float32")
        out = T.match_buffer(T.arg("y", T.handle()), (16,), "bool")
        with lane_loop(16) as v:
            T.buffer_store(out, evaluate(node, lambda _: source[v], lambda _, index: source[index[0]]), [v])
    library = tvm.compile(tvm.IRModule({"main": builder.get()}), target=Target.host(threads=1).tvm_target())
    values = np.arange(16, dtype=np.float32)
    values[3] = np.nan
    result = tvm.runtime.tensor(np.zeros(16, bool))
    library["main"](tvm.runtime.tensor(values), result)
    array: np.ndarray = result.numpy()
    return array


def test_comparison_with_itself_finds_nan() -> None:
    """x != x is how NaN is asked for; an algebraic simplifier says it is never true."""
    np.testing.assert_array_equal(_run_with_itself(aten.ne.Tensor), np.arange(16) == 3)
    np.testing.assert_array_equal(_run_with_itself(aten.eq.Tensor), np.arange(16) != 3)
