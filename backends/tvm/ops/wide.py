"""Functions whose float32 results are computed in float64, where no trick is needed to keep 24 bits.

power(a, b) = 2^(b log2 a);   asinh(x) = log(x + sqrt(x^2 + 1));   fmod by 28 bits of the quotient at a time
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log, nan

from ..compat import tirx
from .exponential import expm1
from .lanes import PrimExpr, let
from .scalar import (
    F32,
    F64,
    absolute,
    bits,
    clip,
    const,
    copysign,
    dtype_of,
    isnan,
    libm,
    minimum,
    negate,
    poly,
    select,
)

_LOG2_F64 = (2.8853900817779272, 0.96179669392432021, 0.57707801725226615, 0.41219840115128142, 0.32061644927141603,
             0.26144233179875137, 0.24293860500956571)  # fmt: skip
_EXP2_F64 = (0.99999999999976263, 0.69314718054651203, 0.24022650698878126, 0.055504109393498501,
             0.0096181285431657972, 0.0013333452055525542, 0.00015403851596572276, 1.5309738962197187e-05,
             1.3175884070223673e-06)  # fmt: skip


def _log2_f64(x: PrimExpr) -> PrimExpr:
    """log2 of a positive normal float64 with 40 good bits (for float32 results); edges as in `ln`."""
    start = const(0x3FE6A09E667F3BCC, "int64")

    def parts(i: PrimExpr) -> PrimExpr:
        e = tirx.Cast(F64, tirx.shift_right(i, const(52, "int64")))
        m = tirx.reinterpret(F64, tirx.bitwise_and(i, const((1 << 52) - 1, "int64")) + start)

        def series(m: PrimExpr) -> PrimExpr:
            s = (m - const(1, F64)) / (m + const(1, F64))
            return let(s, lambda s: let(s * s, lambda z: e + s * poly(z, _LOG2_F64)))

        return let(m, series)

    def edges(x: PrimExpr) -> PrimExpr:
        low = select(x < const(0, F64), const(nan, F64), const(-inf, F64))
        finite = let(tirx.reinterpret("int64", x) - start, parts)
        return select(x > const(0, F64), select(x < const(inf, F64), finite, x), select(isnan(x), x, low))

    return let(x, edges)


def _exp2_f64(x: PrimExpr) -> PrimExpr:
    """2^x in float64 with 40 good bits, enough for a float32 result."""
    magic = const(6755399441055744.0, F64)  # 1.5 * 2^52

    def scaled(x: PrimExpr, shifted: PrimExpr) -> PrimExpr:
        n = tirx.reinterpret("int64", shifted) - const(0x4338000000000000, "int64")
        scale = tirx.reinterpret(F64, tirx.shift_left(n + const(1023, "int64"), const(52, "int64")))
        return let(x - (shifted - magic), lambda r: poly(r, _EXP2_F64) * scale)

    return let(clip(x, -400.0, 400.0), lambda x: let(x + magic, lambda s: scaled(x, s)))


def power(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """a^b with the edge cases of C's pow; float32 goes through float64."""
    if dtype_of(a) != F32:
        return libm("pow", a, b)

    def signed(a: PrimExpr, b: PrimExpr) -> PrimExpr:
        size = tirx.Cast(F32, _exp2_f64(tirx.Cast(F64, b) * _log2_f64(tirx.Cast(F64, absolute(a)))))
        half = let(b * const(0.5, F32), lambda h: tirx.NE(tirx.trunc(h), h))
        odd = tirx.And(tirx.EQ(tirx.trunc(b), b), half)
        negative = bits(a) < const(0, "int32")
        fraction = tirx.And(tirx.And(a < const(0, F32), tirx.NE(tirx.trunc(b), b)), a > const(-inf, F32))
        value = let(size, lambda y: select(tirx.And(negative, odd), negate(y), y))
        value = select(tirx.And(fraction, absolute(b) < const(inf, F32)), const(nan, F32), value)
        one = tirx.Or(tirx.Or(b == const(0, F32), a == const(1, F32)), _minus_one_to_infinity(a, b))
        return select(one, const(1, F32), value)

    return let(a, lambda a: let(b, lambda b: signed(a, b)))


def _minus_one_to_infinity(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    return tirx.And(a == const(-1, F32), absolute(b) == const(inf, F32))


def log10(x: PrimExpr) -> PrimExpr:
    """Logarithm to base 10."""
    if dtype_of(x) != F32:
        return libm("log10", x)
    return tirx.Cast(F32, _log2_f64(tirx.Cast(F64, x)) * const(log(2) / log(10), F64))


def _through_f64(x: PrimExpr, body: Callable[[PrimExpr], PrimExpr]) -> PrimExpr:
    """float32 in, float64 inside, float32 out."""
    return tirx.Cast(F32, let(tirx.Cast(F64, x), body))


def sinh(x: PrimExpr) -> PrimExpr:
    """(t + t / (t + 1)) / 2 with t = e^|x| - 1; beyond 30 half of e^|x| in two factors, which overflow late."""
    if dtype_of(x) != F32:
        return libm("sinh", x)

    def near(t: PrimExpr) -> PrimExpr:
        return (t + t / (t + const(1, F32))) * const(0.5, F32)

    def both(x: PrimExpr) -> PrimExpr:
        a = absolute(x)
        exact = _through_f64(a, lambda d: _exp2_f64(d * const(1 / log(2), F64)) * const(0.5, F64))
        value = select(a < const(30, F32), let(expm1(minimum(const(30, F32), a)), near), exact)
        return copysign(value, x)

    return let(x, both)


def cosh(x: PrimExpr) -> PrimExpr:
    """(t + 1/t) / 2 with t = e^|x|."""
    if dtype_of(x) != F32:
        return libm("cosh", x)

    def mean(d: PrimExpr) -> PrimExpr:
        t = _exp2_f64(tirx.abs(d) * const(1 / log(2), F64))
        return let(t, lambda t: (t + const(1, F64) / t) * const(0.5, F64))

    return _through_f64(x, mean)


def asinh(x: PrimExpr) -> PrimExpr:
    """log(a + sqrt(a^2 + 1)) in float64; x - x^3/6 where that cancels."""
    if dtype_of(x) != F32:
        return libm("asinh", x)

    def both(x: PrimExpr) -> PrimExpr:
        root = _through_f64(absolute(x), lambda a: _ln_f64(a + tirx.sqrt(a * a + const(1, F64))))
        small = x - x * x * x * const(1 / 6, F32)
        return copysign(select(absolute(x) < const(1e-3, F32), absolute(small), root), x)

    return let(x, both)


def acosh(x: PrimExpr) -> PrimExpr:
    """log1p(t + sqrt(t (t + 2))) with t = x - 1, in float64."""
    if dtype_of(x) != F32:
        return libm("acosh", x)

    def root(d: PrimExpr) -> PrimExpr:
        return let(d - const(1, F64), lambda t: _ln1p_f64(t + tirx.sqrt(t * (t + const(2, F64)))))

    return let(x, lambda x: select(x >= const(1, F32), _through_f64(x, root), const(nan, F32)))


def atanh(x: PrimExpr) -> PrimExpr:
    """log((1 + x) / (1 - x)) / 2 in float64; x + x^3/3 where that cancels."""
    if dtype_of(x) != F32:
        return libm("atanh", x)
    one = const(1, F64)

    def both(x: PrimExpr) -> PrimExpr:
        ratio = _through_f64(x, lambda d: _ln_f64((one + d) / (one - d)) * const(0.5, F64))
        small = x + x * x * x * const(1 / 3, F32)
        return select(absolute(x) < const(1e-3, F32), small, ratio)

    return let(x, both)


def _ln_f64(x: PrimExpr) -> PrimExpr:
    return _log2_f64(x) * const(log(2), F64)


def _ln1p_f64(x: PrimExpr) -> PrimExpr:
    """log(1 + x) for x >= 0 with 30 good bits."""
    one, half = const(1, F64), const(0.5, F64)
    return let(x, lambda x: select(x < const(1e-5, F64), x - x * x * half, _ln_f64(x + one)))


def fmod(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """C's fmod, exact: 28 bits of the quotient at a time in float64, where each remainder is representable."""
    if dtype_of(a) != F32:
        return libm("fmod", a, b)
    zero = const(0, F64)

    def steps(rest: PrimExpr, size: PrimExpr, k: int) -> PrimExpr:
        if k < 0:
            return rest
        divisor = size * const(2.0 ** (28 * k), F64)

        def corrected(rest: PrimExpr, divisor: PrimExpr) -> PrimExpr:
            left = rest - tirx.trunc(rest / divisor) * divisor
            return let(let(left, lambda r: select(r < zero, r + divisor, r)), lambda r: steps(r, size, k - 1))

        return let(divisor, lambda d: corrected(rest, d))

    def whole(a: PrimExpr, b: PrimExpr) -> PrimExpr:
        size = tirx.Cast(F64, absolute(b))
        rest = let(size, lambda s: let(tirx.Cast(F64, absolute(a)), lambda r: steps(r, s, 9)))
        value = copysign(tirx.Cast(F32, rest), a)
        value = select(absolute(b) == const(inf, F32), a, value)
        good = tirx.And(absolute(a) < const(inf, F32), absolute(b) > const(0, F32))
        return select(tirx.Or(isnan(b), isnan(a)), const(nan, F32), select(good, value, const(nan, F32)))

    return let(a, lambda a: let(b, lambda b: whole(a, b)))
