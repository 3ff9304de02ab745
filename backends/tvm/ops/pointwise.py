"""The scalar table: each pointwise ATen op as a TIR expression of its operands' elements.

out[i] = f(a[i], b[i], ...)        operands broadcast, converted to the dtype in which PyTorch computes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ....ir.ops import integer_name
from ..compat import tirx
from . import activations as act
from . import arithmetic as num
from . import bitwise, division, integer, math
from .lanes import PrimExpr, once
from .math import const

Operand = Callable[[fx.Node], PrimExpr]
"""An operand's element at the index that is being computed."""

aten = torch.ops.aten

DTYPES = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
"""What kernels compute in. bfloat16 is computed in float32 (`dtype_of`); float16 is not supported."""


@dataclass(frozen=True)
class Pointwise:
    """One op: `function(*operands, *attributes, **keyword attributes)`.

    The first `operands` arguments are tensors, or numbers that stand for them. `computes` says in which dtype:
    "result" that of the result, "operands" the one they promote to (comparisons), "own" each its own. Operands
    are read from a variable unless `simple` (the function reads each once).
    """

    function: Callable[..., PrimExpr]
    operands: int = 1
    computes: str = "result"
    simple: bool = False


def _binary(function: Any, computes: str = "result", simple: bool = False) -> Pointwise:
    return Pointwise(function, 2, computes, simple)


def _compare(function: Any) -> Pointwise:
    return Pointwise(function, 2, "operands", simple=True)


_TABLE: Mapping[str, Pointwise] = {
    "add.Tensor add.Scalar": _binary(num.add, simple=True),
    "sub.Tensor sub.Scalar": _binary(num.sub, simple=True),
    "rsub.Tensor rsub.Scalar": _binary(num.rsub, simple=True),
    "mul.Tensor mul.Scalar": _binary(num.mul, simple=True),
    "div.Tensor div.Scalar div.Tensor_mode div.Scalar_mode true_divide.Tensor": _binary(division.div, simple=True),
    "floor_divide.default floor_divide.Scalar": _binary(division.floor_divide),
    "remainder.Tensor remainder.Scalar remainder.Scalar_Tensor": _binary(division.remainder),
    "fmod.Tensor fmod.Scalar": _binary(division.c_remainder),
    "pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar": _binary(num.powers),
    "maximum.default": _binary(math.maximum),
    "minimum.default": _binary(math.minimum),
    "atan2.default": _binary(math.atan2),
    "hypot.default": _binary(num.hypot),
    "xlogy.Tensor xlogy.Scalar_Other xlogy.Scalar_Self": _binary(num.xlogy),
    "logaddexp.default": _binary(num.logaddexp),
    "copysign.Tensor copysign.Scalar": _binary(lambda a, b: math.copysign(math.absolute(a), b)),
    "lerp.Tensor lerp.Scalar": Pointwise(num.lerp, 3),
    "addcmul.default": Pointwise(num.addcmul, 3, simple=True),
    "addcdiv.default": Pointwise(num.addcdiv, 3, simple=True),
    "where.self where.ScalarOther where.ScalarSelf where.Scalar": Pointwise(num.where, 3, simple=True),
    "clamp.default clamp.Tensor hardtanh.default": Pointwise(num.clamp, 3),
    "clamp_min.default clamp_min.Tensor": _binary(lambda x, low: num.clamp(x, low)),
    "clamp_max.default clamp_max.Tensor": _binary(lambda x, high: num.clamp(x, None, high)),
    "eq.Tensor eq.Scalar": _compare(tirx.EQ),
    "ne.Tensor ne.Scalar": _compare(num.unequal),
    "lt.Tensor lt.Scalar": _compare(tirx.LT),
    "le.Tensor le.Scalar": _compare(tirx.LE),
    "gt.Tensor gt.Scalar": _compare(tirx.GT),
    "ge.Tensor ge.Scalar": _compare(tirx.GE),
    "logical_and.default": _binary(bitwise.logical(tirx.And), "own"),
    "logical_or.default": _binary(bitwise.logical(tirx.Or), "own"),
    "logical_xor.default": _binary(bitwise.logical(bitwise.xor), "own"),
    "logical_not.default": Pointwise(bitwise.logical(tirx.Not), 1, "own"),
    "bitwise_and.Tensor bitwise_and.Scalar": _binary(bitwise.bits(tirx.And, tirx.bitwise_and)),
    "bitwise_or.Tensor bitwise_or.Scalar": _binary(bitwise.bits(tirx.Or, tirx.bitwise_or)),
    "bitwise_xor.Tensor bitwise_xor.Scalar": _binary(bitwise.bits(bitwise.xor, tirx.bitwise_xor)),
    "bitwise_not.default": Pointwise(bitwise.bits(tirx.Not, tirx.bitwise_not)),
    "bitwise_left_shift.Tensor bitwise_left_shift.Tensor_Scalar __lshift__.Scalar": _binary(bitwise.shift_left),
    "bitwise_right_shift.Tensor bitwise_right_shift.Tensor_Scalar __rshift__.Scalar": _binary(bitwise.shift_right),
    "relu.default": Pointwise(act.relu),
    "relu6.default": Pointwise(lambda x: math.clip(x, 0, 6)),
    "gelu.default": Pointwise(act.gelu),
    "silu.default": Pointwise(act.silu),
    "mish.default": Pointwise(act.mish),
    "softplus.default": Pointwise(act.softplus),
    "log_sigmoid.default": Pointwise(act.log_sigmoid),
    "elu.default": Pointwise(act.elu),
    "selu.default": Pointwise(act.selu),
    "celu.default": Pointwise(act.celu),
    "hardsigmoid.default": Pointwise(act.hardsigmoid),
    "hardswish.default": Pointwise(act.hardswish),
    "hardshrink.default": Pointwise(act.hardshrink),
    "softshrink.default": Pointwise(act.softshrink),
    "threshold.default": Pointwise(act.threshold, 3),
    "leaky_relu.default": Pointwise(act.leaky_relu),
    "_prelu_kernel.default": _binary(act.prelu),
    "logit.default": Pointwise(act.logit),
    "sigmoid.default": Pointwise(math.sigmoid),
    "tanh.default": Pointwise(math.tanh),
    "exp.default": Pointwise(math.exp),
    "exp2.default": Pointwise(math.exp2),
    "expm1.default": Pointwise(math.expm1),
    "log.default": Pointwise(math.ln),
    "log2.default": Pointwise(math.log2),
    "log10.default": Pointwise(math.log10),
    "log1p.default": Pointwise(math.log1p),
    "erf.default": Pointwise(math.erf),
    "sin.default": Pointwise(math.sin),
    "cos.default": Pointwise(math.cos),
    "tan.default": Pointwise(math.tan),
    "asin.default": Pointwise(math.asin),
    "acos.default": Pointwise(math.acos),
    "atan.default": Pointwise(math.atan),
    "sinh.default": Pointwise(math.sinh),
    "cosh.default": Pointwise(math.cosh),
    "asinh.default": Pointwise(math.asinh),
    "acosh.default": Pointwise(math.acosh),
    "atanh.default": Pointwise(math.atanh),
    "sqrt.default": Pointwise(lambda x: tirx.sqrt(x), simple=True),
    "rsqrt.default": Pointwise(lambda x: const(1, math.dtype_of(x)) / tirx.sqrt(x), simple=True),
    "reciprocal.default": Pointwise(lambda x: const(1, math.dtype_of(x)) / x, simple=True),
    "square.default": Pointwise(lambda x: x * x),
    "abs.default": Pointwise(num.magnitude),
    "neg.default": Pointwise(num.neg, simple=True),
    "positive.default": Pointwise(lambda x: x, simple=True),
    "sign.default sgn.default": Pointwise(num.sign),
    "floor.default": Pointwise(num.rounding(tirx.floor), simple=True),
    "ceil.default": Pointwise(num.rounding(tirx.ceil), simple=True),
    "trunc.default": Pointwise(num.rounding(tirx.trunc), simple=True),
    "round.default round.decimals": Pointwise(num.round_decimals, simple=True),
    "frac.default": Pointwise(lambda x: x - tirx.trunc(x)),
    "nan_to_num.default": Pointwise(num.nan_to_num),
    "isnan.default": Pointwise(num.isnan_, 1, "own"),
    "isinf.default": Pointwise(num.isinf, 1, "own"),
    "isfinite.default": Pointwise(num.isfinite, 1, "own"),
    "signbit.default": Pointwise(num.signbit, 1, "own"),
    "_to_copy.default": Pointwise(lambda x, **_: x, 1, "own", simple=True),
}


def _by_overload() -> dict[Any, Pointwise]:
    """The table keyed by op overload."""
    found: dict[Any, Pointwise] = {}
    for names, entry in _TABLE.items():
        for name in names.split():
            op, overload = name.split(".")
            found[getattr(getattr(aten, op), overload)] = entry
    return found


POINTWISE: Mapping[Any, Pointwise] = _by_overload()


def is_pointwise(node: fx.Node) -> bool:
    """Whether `evaluate` can compute the node: the table has its op, and kernels its dtypes."""
    return refusal(node) is None


def refusal(node: fx.Node) -> str | None:
    """Why `evaluate` cannot compute the node, or None."""
    if node.op == "call_function" and integer_name(node) in integer.POINTWISE:
        return None
    if node.op != "call_function" or node.target not in POINTWISE:
        return "it is not in the table of pointwise operators"
    for value in (node, *node.all_input_nodes):
        if dtype_of(value) not in DTYPES:
            return f"dtype {dtype_of(value)} is not supported"
    if "pow" in str(node.target) and dtype_of(node) in DTYPES[2:]:
        exponent = node.args[1]
        if not isinstance(exponent, int) or exponent < 0:
            return "integer powers need a constant exponent >= 0"
    return None


def dtype_of(node: fx.Node) -> str:
    """The dtype in which kernels compute a node's value: bfloat16 is only stored."""
    return _computed_in(node.meta["val"].dtype)


def _computed_in(dtype: torch.dtype) -> str:
    return "float32" if dtype is torch.bfloat16 else str(dtype).removeprefix("torch.")


def evaluate(node: fx.Node, operand: Operand, entry: integer.Entry) -> PrimExpr:
    """One element of a pointwise node, in the node's dtype; `entry` reads a value at an index, for tables.

    Emits statements where values are used more than once: an IRBuilder must be open, and vector loops must be
    `lanes.lane_loop`s.
    """
    if (name := integer_name(node)) is not None:
        return integer.POINTWISE[name](node, operand, entry)
    row = POINTWISE[node.target]
    if node.target in (aten.eq.Tensor, aten.ne.Tensor) and node.args[0] is node.args[1]:
        return _with_itself(node, operand)
    dtype = _computed(node, row)
    condition = num.where if row.function is num.where else None
    operands = [
        _operand(arg, None if condition and i == 0 else dtype, operand, row.simple)
        for i, arg in enumerate(node.args[: row.operands])
    ]
    return num.cast(row.function(*operands, *node.args[row.operands :], **_attributes(node)), dtype_of(node))


def _operand(arg: Any, dtype: str | None, operand: Operand, simple: bool) -> PrimExpr | None:
    """The value of one operand in `dtype` (None: its own)."""
    if arg is None:
        return None
    if not isinstance(arg, fx.Node):
        return const(arg, dtype or _number_dtype(arg))
    value = operand(arg)
    value = value if dtype is None else num.cast(value, dtype)
    return value if simple else once(value)


def _number_dtype(value: float | bool) -> str:
    return "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float32"


def _computed(node: fx.Node, entry: Pointwise) -> str | None:
    """The dtype operands are converted to; None leaves each its own."""
    if entry.computes == "own":
        return None
    dtype = dtype_of(node)
    if entry.computes == "operands":
        first, second = (a.meta["val"] if isinstance(a, fx.Node) else a for a in node.args[:2])
        dtype = _computed_in(torch.result_type(first, second))  # type: ignore[arg-type]
    arithmetic = entry.function in (num.add, num.mul, num.clamp, math.maximum, math.minimum)
    return "int32" if dtype == "bool" and (arithmetic or entry.computes == "operands") else dtype


def _attributes(node: fx.Node) -> dict[str, Any]:
    return dict(node.kwargs) if node.target is not aten._to_copy.default else {}


def _with_itself(node: fx.Node, operand: Operand) -> PrimExpr:
    """x == x asks for NaN; TVM would simplify it to True."""
    assert isinstance(node.args[0], fx.Node)
    nan = once(num.isnan_(once(operand(node.args[0]))))
    return tirx.Not(nan) if node.target is aten.eq.Tensor else nan
