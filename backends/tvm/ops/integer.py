"""Pointwise `planish::` operators as TIR expressions: multiply, add, shift, to the bits of `ir/quantized/pointwise.py`.

    requantize(x) = clamp(zero + ((x - x_zero) · b + 2^(c-1) >> c), low, high)

Shifts are data, not known here; what is known of them (`placeholder.meta["shifts"]`, see `passes/group/shifts.py`)
leaves out what never happens. Lanes past the last channel have shifts of 0, and any result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from ....ir.dyadic import INT64
from ....ir.ops import integer_name
from ....ir.quantized.pointwise import SEGMENT_BITS
from ..compat import tirx
from .lanes import PrimExpr, once
from .math import const, dtype_of, select

Operand = Callable[[fx.Node], PrimExpr]
"""An operand's element at the index that is being computed."""
Entry = Callable[[fx.Node, Sequence[PrimExpr]], PrimExpr]
"""A value's element at an index."""

ANY = (-(2**31), 2**31)
"""Bounds of a shift of which nothing is known."""
_EXACT = 2**24
"""Integers up to here are float32 numbers."""


def as_int(x: PrimExpr, dtype: str = "int64") -> PrimExpr:
    """An integer in another width."""
    return x if dtype_of(x) == dtype else tirx.Cast(dtype, x)


def centered(x: PrimExpr, zero: int, dtype: str = "int32") -> PrimExpr:
    """x - zero, of at most 17 bits where there is a zero point."""
    wide = as_int(x, dtype)
    return wide - const(zero, dtype) if zero else wide


def shifted(x: PrimExpr, shift: PrimExpr | int, bounds: tuple[int, int] = ANY) -> PrimExpr:
    """x · 2^-shift rounded, ties up, in int64, |x| < 2^62; saturates where the shift is negative.

    `shift` is a number, or an int64 within `bounds`.
    """
    if isinstance(shift, int):
        return _shifted_by(x, shift)
    least, most = bounds
    one = const(1, "int64")
    right = once(tirx.max(tirx.min(shift, const(62, "int64")), one)) if not (least >= 1 and most <= 62) else once(shift)
    x = once(x)
    result = (x + tirx.shift_left(one, right - one)) >> right
    if most > 62:
        result = select(shift > const(62, "int64"), const(0, "int64"), result)
    if least < 1:
        left = once(tirx.max(tirx.min(-shift, const(62, "int64")), const(0, "int64")))
        result = select(shift < one, _saturated(x, left), result)
    return result


def _shifted_by(x: PrimExpr, shift: int) -> PrimExpr:
    if shift > 62:
        return const(0, "int64")
    if shift > 0:
        return (x + const(1 << (shift - 1), "int64")) >> const(shift, "int64")
    return _saturated(once(x), const(min(-shift, 62), "int64"))


def _saturated(x: PrimExpr, left: PrimExpr) -> PrimExpr:
    """x · 2^left, saturated at 64 bits; reads both several times."""
    low, high = (const(bound, "int64") for bound in INT64)
    most, least = high >> left, low >> left
    return select(x > most, high, select(x < least, low, tirx.shift_left(x, left)))


def clamped(x: PrimExpr, zero: int, low: int, high: int, dtype: torch.dtype) -> PrimExpr:
    """clamp(x + zero, low, high) of an int64; clamped first, so that nothing overflows."""
    kept = tirx.max(tirx.min(x, const(high - zero, "int64")), const(low - zero, "int64"))
    if dtype.itemsize > 2:
        return as_int(kept + const(zero, "int64"), name_of(dtype))
    return as_int(tirx.Cast("int32", kept) + const(zero, "int32"), name_of(dtype))


def name_of(dtype: torch.dtype) -> str:
    """TIR's name of a dtype."""
    return str(dtype).removeprefix("torch.")


def shift_bounds(node: Any) -> tuple[int, int]:
    """What is known of the shifts that an operand holds."""
    found: tuple[int, int] = node.meta.get("shifts", ANY)
    return found


def table_of(node: fx.Node) -> Any:
    """The operand of a pointwise call that is read at a place of its own, if there is one."""
    return node.args[1] if integer_name(node) in ("lookup", "curve") else None


def _quantize(node: fx.Node, operand: Operand, _: Entry) -> PrimExpr:
    """NaN fails the first comparison, and the bounds are exact: codes of 24 bits and more go through int64."""
    source, scale, zero, low, high, dtype = arguments(node)
    x = operand(source)
    x = x if dtype_of(x) == "float32" else tirx.Cast("float32", x)
    steps = once(x / const(float(np.float32(scale)), "float32"))
    least, most = (const(float(np.float32(bound - zero)), "float32") for bound in (low, high))
    steps = once(select(steps >= least, steps, least))
    rounded = tirx.round(select(steps <= most, steps, most))
    wide = "int32" if max(abs(low - zero), abs(high - zero)) <= _EXACT else "int64"
    return as_int(tirx.Cast(wide, rounded) + const(zero, wide), name_of(dtype))


def _dequantize(node: fx.Node, operand: Operand, _: Entry) -> PrimExpr:
    x, scale, zero = arguments(node)
    return tirx.Cast("float32", centered(operand(x), zero)) * tirx.Cast("float32", operand(scale))


def _requantize(node: fx.Node, operand: Operand, _: Entry) -> PrimExpr:
    x, multiplier, shift, x_zero, *bounds = arguments(node)
    product = as_int(centered(operand(x), x_zero)) * as_int(operand(multiplier))
    return clamped(shifted(product, as_int(operand(shift)), shift_bounds(shift)), *bounds)


def _add(node: fx.Node, operand: Operand, _: Entry) -> PrimExpr:
    a, b, a_multiplier, b_multiplier, shift, a_zero, b_zero, *bounds = arguments(node)
    left = as_int(centered(operand(a), a_zero)) * as_int(operand(a_multiplier))
    right = as_int(centered(operand(b), b_zero)) * as_int(operand(b_multiplier))
    return clamped(shifted(left + right, as_int(operand(shift)), shift_bounds(shift)), *bounds)


def _mul(node: fx.Node, operand: Operand, _: Entry) -> PrimExpr:
    a, b, a_zero, b_zero = arguments(node)
    return centered(operand(a), a_zero) * centered(operand(b), b_zero)


def _lookup(node: fx.Node, operand: Operand, entry: Entry) -> PrimExpr:
    x, table = arguments(node)
    return entry(table, [centered(operand(x), int(torch.iinfo(x.meta["val"].dtype).min))])


def _curve(node: fx.Node, operand: Operand, entry: Entry) -> PrimExpr:
    """In 64 bits: whether a curve fits 32 is for its maker to know."""
    x, coefficients, shift, low, high, dtype = arguments(node)
    code = once(centered(operand(x), -(2**15)))
    row = once(code >> const(SEGMENT_BITS, "int32"))
    part = tirx.bitwise_and(code, const((1 << SEGMENT_BITS) - 1, "int32"))
    t = once(as_int(part - const(1 << (SEGMENT_BITS - 1), "int32")))
    c0, c1, c2 = (as_int(entry(coefficients, [row, k])) for k in range(3))
    return clamped(shifted((c2 * t + c1) * t + c0, shift), 0, low, high, dtype)


def arguments(node: fx.Node) -> Any:
    """The arguments of a `planish::` call, all of which stand by position."""
    return node.args


POINTWISE: Mapping[str, Callable[[fx.Node, Operand, Entry], PrimExpr]] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "requantize": _requantize,
    "add": _add,
    "mul": _mul,
    "lookup": _lookup,
    "curve": _curve,
}
"""By name: the operators need not be registered for a kernel to be made."""
