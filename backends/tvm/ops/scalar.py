"""What every formula is made of: literals, selection, polynomials, bits, extrema.

poly(x, (a, b, c)) = a + x (b + x c);   maximum(a, NaN) = NaN
"""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign as copysign_of
from math import inf

from ..compat import tirx
from .lanes import PrimExpr, let

F32 = "float32"
F64 = "float64"
LARGEST = 2.0**128 - 2.0**104
"""The largest float32."""
BEYOND = 2.0**128 - 2.0**103
"""From here on float32 rounds to infinity."""


def dtype_of(x: PrimExpr) -> str:
    """The expression's dtype, "float32" or "bool"."""
    return str(x.ty.dtype)


def const(value: float | bool, dtype: str) -> PrimExpr:
    """A literal of `dtype`; what float32 cannot hold is an infinity."""
    if dtype == F32 and LARGEST < abs(value) < inf:
        value = copysign_of(inf if abs(value) >= BEYOND else LARGEST, value)
    return tirx.const(value, dtype)


def select(cond: PrimExpr, yes: PrimExpr, no: PrimExpr) -> PrimExpr:
    """Both sides are computed: unlike if_then_else this stays a vector instruction."""
    return tirx.Select(cond, yes, no)


def poly(x: PrimExpr, coefficients: Sequence[float]) -> PrimExpr:
    """Horner's rule, lowest power first; `x` must be cheap (a variable)."""
    result = const(coefficients[-1], dtype_of(x))
    for c in reversed(coefficients[:-1]):
        result = result * x + const(c, dtype_of(x))
    return result


def bits(x: PrimExpr) -> PrimExpr:
    """The float32's bits as int32."""
    return tirx.reinterpret("int32", x)


def from_bits(i: PrimExpr) -> PrimExpr:
    """The float32 with these int32 bits."""
    return tirx.reinterpret(F32, i)


def libm(name: str, *args: PrimExpr) -> PrimExpr:
    """A call of the C library, lane by lane: for float64 only."""
    return tirx.call_pure_extern(dtype_of(args[0]), name, *args)


def isnan(x: PrimExpr) -> PrimExpr:
    """True for NaN (`x != x` would be simplified to False)."""
    return tirx.isnan(x)


def maximum(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """The larger one; NaN if either is. For a constant `a` this is one vmaxps: a > b ? a : b is b for a NaN b."""
    if isinstance(a, tirx.FloatImm) or dtype_of(a)[0] != "f":
        return let(b, lambda y: select(a > y, a, y)) if isinstance(a, tirx.FloatImm) else tirx.max(a, b)
    return let(a, lambda x: let(b, lambda y: select(isnan(x), x, select(x > y, x, y))))


def minimum(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """The smaller one; NaN if either is."""
    if isinstance(a, tirx.FloatImm) or dtype_of(a)[0] != "f":
        return let(b, lambda y: select(a < y, a, y)) if isinstance(a, tirx.FloatImm) else tirx.min(a, b)
    return let(a, lambda x: let(b, lambda y: select(isnan(x), x, select(x < y, x, y))))


def larger(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """The larger one, `b` if either is NaN: one vmaxps."""
    return let(a, lambda x: let(b, lambda y: select(x > y, x, y)))


def clip(x: PrimExpr, low: float, high: float) -> PrimExpr:
    """Clamp to constants, NaN stays NaN."""
    return minimum(const(high, dtype_of(x)), maximum(const(low, dtype_of(x)), x))


def absolute(x: PrimExpr) -> PrimExpr:
    """|x|, clearing the sign of -0.0 and NaN too."""
    if dtype_of(x) == F32:
        return from_bits(tirx.bitwise_and(bits(x), const(0x7FFFFFFF, "int32")))
    return tirx.abs(x)


def copysign(magnitude: PrimExpr, sign: PrimExpr) -> PrimExpr:
    """`magnitude` >= 0 with the sign bit of `sign`."""
    if dtype_of(magnitude) != F32:
        return tirx.copysign(magnitude, sign)
    mask = tirx.bitwise_and(bits(sign), const(-0x80000000, "int32"))
    return from_bits(tirx.bitwise_or(bits(absolute(magnitude)), mask))


def negate(x: PrimExpr) -> PrimExpr:
    """-x with the sign of zero flipped too (TVM's own is 0 - x)."""
    if dtype_of(x) == F32:
        return from_bits(tirx.bitwise_xor(bits(x), const(-0x80000000, "int32")))
    return x * const(-1, dtype_of(x))
