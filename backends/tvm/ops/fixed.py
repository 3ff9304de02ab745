"""The fixed-point functions of `ir/quantized/fixed.py` as TIR expressions of int64, with the same bits.

Arguments are read several times: they must be cheap (named by `once`, or constants).
"""

from __future__ import annotations

from ....ir.quantized.fixed import EXP2, EXP2_FRACTION, ONE
from ..compat import tirx
from .integer import as_int, shifted
from .lanes import PrimExpr, once
from .math import const, select


def wide(value: int) -> PrimExpr:
    """An int64 constant."""
    return const(value, "int64")


def product(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """a · b of two int64 that fit int32, said so that CPUs multiply halves."""
    return as_int(as_int(a, "int32")) * as_int(as_int(b, "int32"))


def exp2_below(t: PrimExpr) -> PrimExpr:
    """2^30 · 2^(-t / 2^24) for t >= 0, rounded; 0 from 31 on."""
    whole = once(t >> wide(EXP2_FRACTION))
    rest = tirx.bitwise_and(t, wide((1 << EXP2_FRACTION) - 1))
    fraction = once(tirx.shift_left(rest, wide(30 - EXP2_FRACTION)))
    result = wide(EXP2[-1])
    for coefficient in reversed(EXP2[:-1]):
        result = wide(coefficient) + ((product(result, fraction) + wide(1 << 29)) >> wide(30))
    result = once(result)
    rounded = shifted(result, once(tirx.max(tirx.min(whole, wide(31)), wide(1))), (1, 31))
    return select(whole > wide(30), wide(0), select(whole < wide(1), result, rounded))


def reciprocal(m: PrimExpr) -> PrimExpr:
    """2^61 / m for m in [2^30, 2^31): a line, then three steps of Newton's method."""
    x = wide(48 * ONE // 17) - ((m * wide(32 * ONE // 17)) >> wide(31))
    for _ in range(3):
        x = once(x)
        error = wide(1 << 61) - m * x
        x = x + ((x * (error >> wide(30))) >> wide(31))
    return x


def inverse_root(w: PrimExpr) -> tuple[PrimExpr, PrimExpr]:
    """(e, k) with e · 2^-k ≈ 1 / sqrt(w) and e in [2^30, 2^31]; e = 0 for w = 0."""
    half = once((bit_length(w) - wide(31)) >> wide(1))
    down = tirx.max(half + half, wide(0))
    up = tirx.max(wide(0) - half - half, wide(0))
    m = once(select(half >= wide(0), w >> down, tirx.shift_left(w, up)))
    x = wide(214 * ONE // 100) - ((m * wide(122 * ONE // 100)) >> wide(32))
    for _ in range(4):
        x = once(x)
        square = ((x * x) >> wide(32)) * m
        x = (x * ((wide(3 << 60) - square) >> wide(31))) >> wide(30)
    return select(w > wide(0), x, wide(0)), wide(46) + half


def bit_length(w: PrimExpr) -> PrimExpr:
    """Bits of w >= 0 without its leading zeros; 0 for 0."""
    bits = wide(0)
    for step in (32, 16, 8, 4, 2, 1):
        w, bits = once(w), once(bits)
        far = (w >> wide(step)) > wide(0)
        bits, w = select(far, bits + wide(step), bits), select(far, w >> wide(step), w)
    return bits + w
