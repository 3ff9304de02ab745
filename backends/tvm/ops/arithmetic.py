"""Arithmetic and comparison as TIR expressions of one element, with PyTorch's semantics.

add(a, b, alpha) = a + alpha b;   x - x, x * 0 and x != x are what they are for infinite x and NaN
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import inf, nan

from ..compat import structural_equal, tirx
from .lanes import PrimExpr, let, once
from .math import (
    absolute,
    const,
    copysign,
    dtype_of,
    exp,
    isnan,
    ln,
    log1p,
    maximum,
    minimum,
    negate,
    power,
    select,
)  # fmt: skip

Formula = Callable[..., PrimExpr]
"""An operation on the elements of its operands."""


def is_float(x: PrimExpr) -> bool:
    """Whether the expression is floating-point."""
    return dtype_of(x).startswith("float")


def cast(x: PrimExpr, dtype: str) -> PrimExpr:
    """Convert as PyTorch does: to bool by != 0, to small integers by way of int32 (values wrap)."""
    have = dtype_of(x)
    if have == dtype:
        return x
    if dtype == "bool":
        return unequal(x, const(0, have))
    if have.startswith("float") and dtype in ("int8", "uint8", "int16"):
        return tirx.Cast(dtype, tirx.Cast("int32", x))
    return tirx.Cast(dtype, x)


def unequal(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """a != b, true for NaN (TVM's own is false)."""
    if dtype_of(a) == "bool":
        return tirx.NE(tirx.Cast("int8", a), tirx.Cast("int8", b))
    if not is_float(a):
        return tirx.NE(a, b)
    found = tirx.NE(a, b)
    for x in (a, b):
        found = found if isinstance(x, tirx.FloatImm) and x.value == x.value else tirx.Or(found, isnan(x))
    return found


def zero(x: PrimExpr) -> PrimExpr:
    """0 of the expression's dtype."""
    return const(0, dtype_of(x))


def is_zero(x: PrimExpr) -> bool:
    """Whether it is the constant 0.0 or -0.0."""
    return isinstance(x, tirx.FloatImm) and x.value == 0


def is_negative_zero(x: PrimExpr) -> bool:
    """Whether it is the constant -0.0."""
    return is_zero(x) and math.copysign(1.0, x.value) < 0


def add(a: PrimExpr, b: PrimExpr, *, alpha: float = 1) -> PrimExpr:
    """a + alpha b."""
    return a + (b if alpha == 1 else b * const(alpha, dtype_of(b)))


def sub(a: PrimExpr, b: PrimExpr, *, alpha: float = 1) -> PrimExpr:
    """a - alpha b; TVM folds x - x to 0, also for infinite x and NaN."""
    if alpha == 1 and is_float(a) and structural_equal(a, b):
        dtype = dtype_of(a)
        return let(a, lambda x: select(absolute(x) < const(inf, dtype), zero(x), const(nan, dtype)))
    return a - (b if alpha == 1 else b * const(alpha, dtype_of(b)))


def rsub(a: PrimExpr, b: PrimExpr, alpha: float = 1) -> PrimExpr:
    """b - alpha a."""
    return sub(b, a, alpha=alpha)


def mul(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """The product; TVM folds x * 0 to 0, also for infinite x and NaN."""
    if is_zero(b):
        return _times_zero(a, b)
    return _times_zero(b, a) if is_zero(a) else a * b


def _times_zero(x: PrimExpr, nought: PrimExpr) -> PrimExpr:
    """x * 0: a zero with the sign of both for finite x, else NaN. (TVM takes select(c, -0.0, 0.0) for -0.0.)"""
    dtype = dtype_of(x)

    def signed(x: PrimExpr) -> PrimExpr:
        sign = negate(x) if is_negative_zero(nought) else x
        return select(absolute(x) < const(inf, dtype), copysign(zero(x), sign), const(nan, dtype))

    return let(x, signed)


def neg(x: PrimExpr) -> PrimExpr:
    """-x."""
    return negate(x) if is_float(x) else zero(x) - x


def magnitude(x: PrimExpr) -> PrimExpr:
    """abs, of unsigned numbers too."""
    return x if dtype_of(x).startswith("u") else absolute(x)


def sign(x: PrimExpr) -> PrimExpr:
    """-1, 0 or 1; 0 for NaN."""
    one = const(1, dtype_of(x))
    low = zero(x) if dtype_of(x).startswith("u") else select(x < zero(x), zero(x) - one, zero(x))
    return select(x > zero(x), one, low)


def rounding(function: Formula) -> Formula:
    """`function` on floating point; integers are round already."""
    return lambda x: function(x) if is_float(x) else x


def round_decimals(x: PrimExpr, *, decimals: int = 0) -> PrimExpr:
    """Half to even at a decimal place."""
    if not is_float(x) or decimals == 0:
        return tirx.round(x) if is_float(x) else x
    scale = const(10.0 ** abs(decimals), dtype_of(x))
    return tirx.round(x * scale) / scale if decimals > 0 else tirx.round(x / scale) * scale


def powers(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """x^y; constant exponents by products and roots where these are as accurate."""
    if not isinstance(y, (tirx.FloatImm, tirx.IntImm)):
        return power(x, y)
    n = y.value
    if not is_float(x):
        return _product(x, int(n))
    one = const(1, dtype_of(x))
    if n == int(n) and 0 <= n <= 4:
        return _product(x, int(n))
    if n in (-1, -2):
        return one / _product(x, int(-n))
    if n in (0.5, -0.5):
        return tirx.sqrt(x) if n > 0 else one / tirx.sqrt(x)
    return power(x, y)


def _product(x: PrimExpr, n: int) -> PrimExpr:
    """x^n by squaring."""
    if n == 0:
        return const(1, dtype_of(x))
    if n == 1:
        return x
    half = once(_product(x, n // 2))
    return half * half * x if n % 2 else half * half


def clamp(x: PrimExpr, low: PrimExpr | None = None, high: PrimExpr | None = None) -> PrimExpr:
    """min(max(x, low), high); NaN where a bound is NaN."""
    if any(isinstance(bound, tirx.FloatImm) and bound.value != bound.value for bound in (low, high)):
        return const(nan, dtype_of(x))
    if low is not None:
        x = maximum(low, x)
    return x if high is None else minimum(high, x)


def where(cond: PrimExpr, yes: PrimExpr, no: PrimExpr) -> PrimExpr:
    """The second or the third operand."""
    return select(cond, yes, no)


def isinf(x: PrimExpr) -> PrimExpr:
    """Infinite, either sign."""
    return tirx.EQ(absolute(x), const(inf, dtype_of(x))) if is_float(x) else const(False, "bool")


def isfinite(x: PrimExpr) -> PrimExpr:
    """Neither infinite nor NaN."""
    return absolute(x) < const(inf, dtype_of(x)) if is_float(x) else const(True, "bool")


def isnan_(x: PrimExpr) -> PrimExpr:
    """Not a number."""
    return isnan(x) if is_float(x) else const(False, "bool")


def signbit(x: PrimExpr) -> PrimExpr:
    """Whether the sign bit is set, of -0.0 and NaN too."""
    if dtype_of(x) == "float32":
        return tirx.reinterpret("int32", x) < const(0, "int32")
    if dtype_of(x) == "float64":
        return tirx.reinterpret("int64", x) < const(0, "int64")
    return x < zero(x)


def nan_to_num(
    x: PrimExpr, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> PrimExpr:
    """NaN and infinities replaced."""
    if not is_float(x):
        return x
    dtype = dtype_of(x)
    largest = 3.4028234663852886e38 if dtype == "float32" else 1.7976931348623157e308
    high = const(largest if posinf is None else posinf, dtype)
    low = const(-largest if neginf is None else neginf, dtype)
    finite = select(tirx.EQ(x, const(inf, dtype)), high, select(tirx.EQ(x, const(-inf, dtype)), low, x))
    return select(isnan(x), const(0.0 if nan is None else nan, dtype), finite)


def lerp(a: PrimExpr, b: PrimExpr, weight: PrimExpr) -> PrimExpr:
    """a + weight (b - a), from the nearer end."""
    near = a + weight * (b - a)
    far = b - (b - a) * (const(1, dtype_of(a)) - weight)
    return select(absolute(weight) < const(0.5, dtype_of(a)), near, far)


def addcmul(x: PrimExpr, a: PrimExpr, b: PrimExpr, *, value: float = 1) -> PrimExpr:
    """x + value a b."""
    return x + (a * b if value == 1 else const(value, dtype_of(x)) * a * b)


def addcdiv(x: PrimExpr, a: PrimExpr, b: PrimExpr, *, value: float = 1) -> PrimExpr:
    """x + value a / b."""
    return x + (a / b if value == 1 else const(value, dtype_of(x)) * (a / b))


def hypot(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """sqrt(a^2 + b^2), in float64: no overflow between."""
    wide = once(cast(a, "float64")), once(cast(b, "float64"))
    root = cast(tirx.sqrt(wide[0] * wide[0] + wide[1] * wide[1]), dtype_of(a))
    return select(tirx.Or(isinf(a), isinf(b)), const(inf, dtype_of(a)), root)


def xlogy(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """a log(b); 0 where a is 0, unless b is NaN."""
    return select(isnan(b), b, select(tirx.EQ(a, zero(a)), zero(a), a * ln(b)))


def logaddexp(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """log(e^a + e^b)."""
    high = once(maximum(a, b))
    distance = once(select(tirx.EQ(a, b), zero(a), absolute(a - b)))
    return high + log1p(exp(zero(a) - distance))
