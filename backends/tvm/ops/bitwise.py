"""Logic, bits and shifts as TIR expressions of one element, with PyTorch's semantics.

x << n = 0 and x >> n = (0 or -1, the sign) for every n that is negative or reaches the width of x
"""

from __future__ import annotations

from ..compat import tirx
from .arithmetic import Formula, cast, unequal, zero
from .lanes import PrimExpr, once
from .math import const, dtype_of, select


def logical(combine: Formula) -> Formula:
    """and, or, xor of truth values. They are named first: TVM would negate float comparisons, losing NaN."""
    return lambda *xs: combine(*(once(cast(x, "bool")) for x in xs))


def xor(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """One but not both."""
    return unequal(a, b)


def bits(of_bool: Formula, of_int: Formula) -> Formula:
    """A bitwise operation, which is the logical one for bool."""
    named = logical(of_bool)
    return lambda *xs: named(*xs) if dtype_of(xs[0]) == "bool" else of_int(*xs)


def shift_left(x: PrimExpr, n: PrimExpr) -> PrimExpr:
    """x << n."""
    if _within(n, x):
        return tirx.shift_left(x, n)
    n = once(n)
    return select(_allowed(n, x), tirx.shift_left(x, _clipped(n, x)), zero(x))


def shift_right(x: PrimExpr, n: PrimExpr) -> PrimExpr:
    """x >> n, with the sign shifted in."""
    if _within(n, x):
        return tirx.shift_right(x, n)
    n, x = once(n), once(x)
    last = const(_width(x) - 1, dtype_of(n))
    far = zero(x) if dtype_of(x).startswith("u") else tirx.shift_right(x, cast(last, dtype_of(x)))
    return select(_allowed(n, x), tirx.shift_right(x, _clipped(n, x)), far)


def _width(x: PrimExpr) -> int:
    return int(dtype_of(x).lstrip("uint"))


def _within(n: PrimExpr, x: PrimExpr) -> bool:
    """Whether it is a constant that may be shifted by."""
    return isinstance(n, tirx.IntImm) and 0 <= n.value < _width(x)


def _allowed(n: PrimExpr, x: PrimExpr) -> PrimExpr:
    return tirx.And(n >= zero(n), n < const(_width(x), dtype_of(n)))


def _clipped(n: PrimExpr, x: PrimExpr) -> PrimExpr:
    """An amount that the machine may shift by, the same one where it is allowed."""
    return tirx.max(tirx.min(n, const(_width(x) - 1, dtype_of(n))), zero(n))
