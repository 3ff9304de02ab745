"""Division and remainders as TIR expressions of one element, with PyTorch's semantics.

remainder(a, b) = a - floor(a / b) b;   fmod(a, b) = a - trunc(a / b) b;   integers never trap
"""

from __future__ import annotations

from math import inf, nan

from ..compat import tirx
from .arithmetic import Formula, is_float, is_negative_zero, is_zero, unequal, zero
from .lanes import PrimExpr, let, once
from .math import absolute, const, copysign, dtype_of, fmod, negate, select


def div(a: PrimExpr, b: PrimExpr, *, rounding_mode: str | None = None) -> PrimExpr:
    """a / b, exact, or rounded to an integer."""
    if rounding_mode == "floor":
        return floor_divide(a, b)
    if rounding_mode == "trunc":
        return tirx.trunc(div(a, b)) if is_float(a) else _safe_divide(a, b, tirx.truncdiv)
    if is_zero(b):
        return _over_zero(a, b)
    if is_zero(a):
        return let(b, lambda b: select(absolute(b) > zero(b), copysign(absolute(a), b), const(nan, dtype_of(b))))
    return a / b


def _over_zero(x: PrimExpr, nought: PrimExpr) -> PrimExpr:
    """x / 0, which TVM refuses to fold: an infinity with the sign of both, NaN for 0 and NaN."""
    dtype = dtype_of(x)

    def signed(x: PrimExpr) -> PrimExpr:
        sign = negate(x) if is_negative_zero(nought) else x
        return select(absolute(x) > zero(x), copysign(const(inf, dtype), sign), const(nan, dtype))

    return let(x, signed)


def floor_divide(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """floor(a / b), for floating point by way of the exact remainder."""
    if not is_float(a):
        return _safe_divide(a, b, tirx.floordiv)
    if is_zero(b):
        return _over_zero(a, b)
    one = const(1, dtype_of(a))

    def rounded(a: PrimExpr, b: PrimExpr) -> PrimExpr:
        mod = once(fmod(a, b))
        other = tirx.And(tirx.NE(mod, zero(a)), unequal(mod < zero(a), b < zero(b)))
        quotient = once((a - mod) / b - select(other, one, zero(a)))
        down = once(tirx.floor(quotient))
        near = select(quotient - down > const(0.5, dtype_of(a)), down + one, down)
        signed = select(tirx.EQ(quotient, zero(a)), copysign(zero(a), a / b), near)
        return select(tirx.EQ(b, zero(b)), a / b, signed)

    return let(a, lambda a: let(b, lambda b: rounded(a, b)))


def remainder(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """a - floor(a / b) b: the sign of b."""
    if not is_float(a):
        return _safe_modulo(a, b, tirx.floormod)

    def signed(m: PrimExpr, b: PrimExpr) -> PrimExpr:
        other = tirx.And(tirx.NE(m, zero(m)), unequal(m < zero(m), b < zero(b)))
        return select(other, m + b, m)

    return let(b, lambda b: let(fmod(a, b), lambda m: signed(m, b)))


def c_remainder(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """fmod: a - trunc(a / b) b, the sign of a."""
    return fmod(a, b) if is_float(a) else _safe_modulo(a, b, tirx.truncmod)


def _safe_divide(a: PrimExpr, b: PrimExpr, divide: Formula) -> PrimExpr:
    """Integer division that traps neither for 0 (the result is unspecified) nor for the most negative number by -1."""
    return _guarded(a, b, lambda a, special, divisor: select(special[1], zero(a) - a, divide(a, divisor)))


def _safe_modulo(a: PrimExpr, b: PrimExpr, modulo: Formula) -> PrimExpr:
    return _guarded(a, b, lambda a, special, divisor: select(tirx.Or(*special), zero(a), modulo(a, divisor)))


def _guarded(a: PrimExpr, b: PrimExpr, result: Formula) -> PrimExpr:
    """result(a, (b is 0, b is -1), b or, if it is one of these, 1)."""
    minus = const(-1, dtype_of(b)) if not dtype_of(b).startswith("u") else const(0, dtype_of(b))

    def guarded(a: PrimExpr, b: PrimExpr) -> PrimExpr:
        special = tirx.EQ(b, zero(b)), tirx.EQ(b, minus)
        divisor = once(select(tirx.Or(*special), const(1, dtype_of(b)), b))
        return result(a, special, divisor)

    return let(a, lambda a: let(b, lambda b: guarded(a, b)))
