"""Trigonometric functions and their inverses for float32; float64 calls libm.

sin(x) = +-p(r) or +-q(r) with x = k pi/2 + r, exact for every float32 (Cody and Waite, Payne and Hanek)
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan, pi, sqrt

from ..compat import tirx
from .lanes import PrimExpr, let
from .scalar import F32, F64, absolute, bits, const, copysign, dtype_of, isnan, libm, poly, select

_SIN = (-0.16666666641435446, 0.008333329362666831, -0.00019839327150825866, 2.7182368463315318e-06)
_COS = (0.04166666662247729, -0.0013888883722629208, 2.4799511763493871e-05, -2.7209547647153197e-07)
_TWO_OVER_PI = (0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB)
_PIO2 = (1.5707963267341256, 6.077100506506192e-11)  # 33 bits, and the next 53


def _trig(x: PrimExpr, then: Callable[[PrimExpr, PrimExpr], PrimExpr]) -> PrimExpr:
    """then(q, r): x = q pi/2 + r mod 2 pi, |r| <= pi/4, q an int32 of which two bits count."""
    magic = const(6755399441055744.0, F64)

    def near(x: PrimExpr, use: Callable[[PrimExpr, PrimExpr], PrimExpr]) -> PrimExpr:
        d = tirx.Cast(F64, x)
        shifted = d * const(2 / pi, F64) + magic

        def reduced(s: PrimExpr) -> PrimExpr:
            n = s - magic
            q = tirx.Cast("int32", tirx.bitwise_and(tirx.reinterpret("int64", s), const(3, "int64")))
            r = let(n, lambda n: d - n * const(_PIO2[0], F64) - n * const(_PIO2[1], F64))
            return use(q, tirx.Cast(F32, r))

        return let(shifted, reduced)

    def joined(x: PrimExpr) -> PrimExpr:
        huge = absolute(x) >= const(2.0**20, F32)

        def merge(q1: PrimExpr, r1: PrimExpr) -> PrimExpr:
            return _payne_hanek(
                x, lambda q2, r2: let(select(huge, q2, q1), lambda q: let(select(huge, r2, r1), lambda r: then(q, r)))
            )

        return near(x, merge)

    return let(x, joined)


def _payne_hanek(x: PrimExpr, then: Callable[[PrimExpr, PrimExpr], PrimExpr]) -> PrimExpr:
    """then(q, r) for 2^20 <= |x| < inf: x * 2/pi mod 4 in 64-bit fixed point, from the bits of 2/pi that count."""
    u64 = "uint64"
    mantissa = tirx.bitwise_or(tirx.bitwise_and(bits(x), const(0x7FFFFF, "int32")), const(0x800000, "int32"))
    field = tirx.bitwise_and(tirx.shift_right(bits(x), const(23, "int32")), const(255, "int32"))

    def fixed(start: PrimExpr) -> PrimExpr:
        # `start`: how many leading bits of 0.(2/pi), with 32 zeros before it, only make multiples of 4
        word = tirx.shift_right(start, const(5, "int32"))
        shift = tirx.Cast(u64, tirx.bitwise_and(start, const(31, "int32")))

        def pick(word: PrimExpr, shift: PrimExpr) -> PrimExpr:
            def table(k: int) -> PrimExpr:
                value = const(_TWO_OVER_PI[4 + k], u64)
                for i in range(3, -1, -1):
                    value = select(word <= const(i, "int32"), const(_TWO_OVER_PI[i + k], u64), value)
                return value

            def aligned(high: PrimExpr, low: PrimExpr) -> PrimExpr:
                pair = tirx.bitwise_or(tirx.shift_left(high, const(32, u64)), low)
                moved = tirx.shift_right(pair, const(32, u64) - shift)
                return tirx.bitwise_and(moved, const(0xFFFFFFFF, u64))

            def product(w0: PrimExpr, w1: PrimExpr, w2: PrimExpr, w3: PrimExpr) -> PrimExpr:
                m = tirx.Cast(u64, mantissa)
                top = tirx.shift_left(m * aligned(w0, w1), const(32, u64))
                return top + m * aligned(w1, w2) + tirx.shift_right(m * aligned(w2, w3), const(32, u64))

            return let(
                table(0),
                lambda a: let(
                    table(1), lambda b: let(table(2), lambda c: let(table(3), lambda d: product(a, b, c, d)))
                ),
            )

        return let(word, lambda w: let(shift, lambda s: pick(w, s)))

    def split(p: PrimExpr) -> PrimExpr:
        quarter = const(1 << 61, u64)
        q = tirx.Cast("int32", tirx.shift_right(p + quarter, const(62, u64)))

        def signed(q: PrimExpr) -> PrimExpr:
            rest = tirx.reinterpret("int64", p - tirx.shift_left(tirx.Cast(u64, q), const(62, u64)))
            r = tirx.Cast(F32, tirx.Cast(F64, rest) * const(pi / 2 * 2.0**-62, F64))
            flip = bits(x) < const(0, "int32")
            r = select(flip, const(0, F32) - r, r)
            return let(r, lambda r: then(select(flip, const(0, "int32") - q, q), r))

        return let(q, signed)

    # x = m 2^(field - 150); bit i of 2/pi (from 1) weighs m 2^(field - 150 - i): multiples of 4 up to field - 152.
    # The product keeps 64 bits below weight 4, hence 24 more bits of 2/pi above for the mantissa's own bits.
    start = tirx.min(tirx.max(field - const(152 - 32, "int32"), const(0, "int32")), const(159, "int32"))
    return let(start, lambda s: let(fixed(s), split))


def _sin_poly(r: PrimExpr) -> PrimExpr:
    return let(r * r, lambda s: r + r * s * poly(s, _SIN))


def _cos_poly(r: PrimExpr) -> PrimExpr:
    return let(r * r, lambda s: const(1, F32) - s * const(0.5, F32) + s * s * poly(s, _COS))


def _quadrant(x: PrimExpr, turn: int) -> PrimExpr:
    """Sine of x + turn * pi/2."""

    def chosen(q: PrimExpr, r: PrimExpr) -> PrimExpr:
        def with_q(q: PrimExpr) -> PrimExpr:
            odd = tirx.NE(tirx.bitwise_and(q, const(1, "int32")), const(0, "int32"))
            flip = tirx.NE(tirx.bitwise_and(q, const(2, "int32")), const(0, "int32"))
            value = select(odd, _cos_poly(r), _sin_poly(r))
            return let(value, lambda v: select(flip, const(0, F32) - v, v))

        return let(q + const(turn, "int32"), with_q)

    def finite(x: PrimExpr) -> PrimExpr:
        good = absolute(x) < const(inf, F32)
        value = _trig(x, chosen)
        value = select(x == const(0, F32), x, value) if turn == 0 else value
        return select(good, value, const(nan, F32))

    return let(x, finite)


def sin(x: PrimExpr) -> PrimExpr:
    """Sine, exact argument reduction over the whole range."""
    return _quadrant(x, 0) if dtype_of(x) == F32 else libm("sin", x)


def cos(x: PrimExpr) -> PrimExpr:
    """Cosine, exact argument reduction over the whole range."""
    return _quadrant(x, 1) if dtype_of(x) == F32 else libm("cos", x)


def tan(x: PrimExpr) -> PrimExpr:
    """sin / cos."""
    return let(x, lambda x: sin(x) / cos(x)) if dtype_of(x) == F32 else libm("tan", x)


_ATAN = (-0.33333315529653129, 0.19998490553144244, -0.14243863363331216, 0.10596072306447465, -0.060835608933337545)
_ASIN = (0.16666659882322149, 0.075005103431608183, 0.044515818165151738, 0.03181691752089047, 0.014404771068690567,
         0.037562746479257086)  # fmt: skip


def atan(x: PrimExpr) -> PrimExpr:
    """Reduced to |t| <= tan(pi/8) by atan(a) = pi/4 + atan((a-1)/(a+1)) = pi/2 - atan(1/a)."""
    if dtype_of(x) != F32:
        return libm("atan", x)
    one = const(1, F32)

    def reduced(a: PrimExpr) -> PrimExpr:
        big, mid = a > const(1 + sqrt(2), F32), a > const(sqrt(2) - 1, F32)
        t = select(big, const(-1, F32) / a, select(mid, (a - one) / (a + one), a))
        base = select(big, const(pi / 2, F32), select(mid, const(pi / 4, F32), const(0, F32)))
        return let(t, lambda t: let(t * t, lambda s: (t * s * poly(s, _ATAN) + t) + base))

    return let(x, lambda x: copysign(let(absolute(x), reduced), x))


def atan2(y: PrimExpr, x: PrimExpr) -> PrimExpr:
    """The angle of (x, y) with C's signs of zero and infinities; float32 divides in float64."""
    if dtype_of(y) != F32:
        return libm("atan2", y, x)

    def quadrant(y: PrimExpr, x: PrimExpr) -> PrimExpr:
        a, b = absolute(y), absolute(x)
        both_inf = tirx.And(a == const(inf, F32), b == const(inf, F32))
        both_zero = tirx.And(a == const(0, F32), b == const(0, F32))
        # a reciprocal angle near pi/2 loses nothing: atan is flat there
        ratio = select(both_inf, const(1, F32), select(both_zero, const(0, F32), a / b))
        angle = let(atan(ratio), lambda t: select(bits(x) < const(0, "int32"), const(pi, F32) - t, t))
        value = copysign(angle, y)
        return select(tirx.Or(isnan(y), isnan(x)), const(nan, F32), value)

    return let(y, lambda y: let(x, lambda x: quadrant(y, x)))


def asin(x: PrimExpr) -> PrimExpr:
    """x + x^3 P(x^2) up to 1/2; pi/2 - 2 asin(sqrt((1 - x) / 2)) beyond."""
    if dtype_of(x) != F32:
        return libm("asin", x)

    def both(a: PrimExpr) -> PrimExpr:
        big = a > const(0.5, F32)
        z = select(big, (const(1, F32) - a) * const(0.5, F32), a * a)

        def series(z: PrimExpr) -> PrimExpr:
            t = select(big, tirx.sqrt(z), a)
            inner = let(t, lambda t: t + t * z * poly(z, _ASIN))
            return let(inner, lambda p: select(big, const(pi / 2, F32) - const(2, F32) * p, p))

        return let(z, series)

    def signed(x: PrimExpr) -> PrimExpr:
        return select(absolute(x) <= const(1, F32), copysign(let(absolute(x), both), x), const(nan, F32))

    return let(x, signed)


def acos(x: PrimExpr) -> PrimExpr:
    """2 asin(sqrt((1 - x) / 2)) above 1/2, pi/2 - asin(x) elsewhere."""
    if dtype_of(x) != F32:
        return libm("acos", x)

    def both(x: PrimExpr) -> PrimExpr:
        a = absolute(x)
        far = const(2, F32) * asin(tirx.sqrt((const(1, F32) - a) * const(0.5, F32)))
        far = let(far, lambda f: select(x < const(0, F32), const(pi, F32) - f, f))
        value = select(a > const(0.5, F32), far, const(pi / 2, F32) - asin(x))
        return select(a <= const(1, F32), value, const(nan, F32))

    return let(x, both)
