"""The exponential family, and what is made of it, for float32 by polynomials; float64 calls libm.

exp(x) = 2^n p(x - n ln 2);   ln(2^e m) = e ln 2 + p(m - 1);   tanh(x) = 1 - 2 / (e^2x + 1)
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log, nan

from ..compat import tirx
from .lanes import PrimExpr, let
from .scalar import (
    F32,
    absolute,
    bits,
    clip,
    const,
    copysign,
    dtype_of,
    from_bits,
    isnan,
    libm,
    maximum,
    minimum,
    negate,
    poly,
    select,
)

_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.4286068203094173e-06  # n * high is exact for |n| < 2^8
_MAGIC = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer that stands in the low bits
_EXP = (0.50000000716196713, 0.16666665817869861, 0.041666280386156905, 0.008333504115696673, 0.0013945751020283822,
        0.00019789117810452121)  # fmt: skip


def _power_of_two(n: PrimExpr) -> PrimExpr:
    """2^n for -126 <= n <= 127 (int32), 0 for -127."""
    return from_bits((n + const(127, "int32")) * const(1 << 23, "int32"))


def _reduce_exp(x: PrimExpr, then: Callable[[PrimExpr, PrimExpr], PrimExpr]) -> PrimExpr:
    """then(n, p) with p = (e^r - 1) and x = n ln 2 + r; `x` in [-104, 89] or NaN."""

    def reduced(shifted: PrimExpr, x: PrimExpr) -> PrimExpr:
        n = bits(shifted) - const(0x4B400000, "int32")

        def with_n(nf: PrimExpr) -> PrimExpr:
            r = x - nf * const(_LN2_HIGH, F32) - nf * const(_LN2_LOW, F32)
            return let(r, lambda r: let(r + r * r * poly(r, _EXP), lambda p: let(n, lambda n: then(n, p))))

        return let(shifted - const(_MAGIC, F32), with_n)

    return let(x, lambda x: let(x * const(1 / log(2), F32) + const(_MAGIC, F32), lambda s: reduced(s, x)))


def exp(x: PrimExpr) -> PrimExpr:
    """e^x. The scaling is in two steps, for results that overflow or are denormal."""
    if dtype_of(x) != F32:
        return libm("exp", x)

    def scaled(n: PrimExpr, p: PrimExpr) -> PrimExpr:
        half = tirx.shift_right(n, const(1, "int32"))
        return let(half, lambda h: (p + const(1, F32)) * _power_of_two(h) * _power_of_two(n - h))

    return _reduce_exp(clip(x, -104.0, 89.0), scaled)


def exp_flushed(x: PrimExpr) -> PrimExpr:
    """e^x for x <= 88; what would be denormal is 0. One scaling less than `exp`."""
    if dtype_of(x) != F32:
        return libm("exp", x)
    return _reduce_exp(maximum(const(-88.0, F32), x), lambda n, p: (p + const(1, F32)) * _power_of_two(n))


def exp_saturated(x: PrimExpr) -> PrimExpr:
    """e^x with one scaling: 0 where the result would be denormal, inf from 88.4 on instead of 88.7."""
    if dtype_of(x) != F32:
        return libm("exp", x)
    return _reduce_exp(clip(x, -88.0, 88.7), lambda n, p: (p + const(1, F32)) * _power_of_two(n))


PAIR_LIMIT = 500.0
"""Up to here `exp_pair` is exact to 1 ulp: the product of n and ln 2's high part is exact for |n| <= 738."""


def exp_pair(x: PrimExpr) -> tuple[PrimExpr, PrimExpr]:
    """(m, n) with e^x = m 2^n, n an int32 and 0.7 < m < 1.42; float32 `x`, |x| <= PAIR_LIMIT or NaN."""
    pair: list[PrimExpr] = []

    def keep(n: PrimExpr, p: PrimExpr) -> PrimExpr:
        pair.append(n)
        return p + const(1, F32)

    mantissa = _reduce_exp(x, keep)
    return mantissa, pair[0]


def power_down(n: PrimExpr) -> PrimExpr:
    """2^n for an int32 n <= 0; what would be denormal is 0."""
    return _power_of_two(tirx.max(n, const(-127, "int32")))


def exp2(x: PrimExpr) -> PrimExpr:
    """2^x, exact for integers."""
    if dtype_of(x) != F32:
        return libm("exp2", x)

    def scaled(x: PrimExpr, shifted: PrimExpr) -> PrimExpr:
        r = (x - (shifted - const(_MAGIC, F32))) * const(log(2), F32)
        p = let(r, lambda r: r + r * r * poly(r, _EXP) + const(1, F32))
        n = bits(shifted) - const(0x4B400000, "int32")
        h = tirx.shift_right(n, const(1, "int32"))
        return let(n, lambda n: let(h, lambda h: p * _power_of_two(h) * _power_of_two(n - h)))

    return let(clip(x, -151.0, 129.0), lambda x: let(x + const(_MAGIC, F32), lambda s: scaled(x, s)))


def expm1(x: PrimExpr) -> PrimExpr:
    """e^x - 1 without cancellation near 0, and -0.0 kept."""
    if dtype_of(x) != F32:
        return libm("expm1", x)

    def scaled(n: PrimExpr, p: PrimExpr) -> PrimExpr:
        # 2 (2^(n-1) p + 2^(n-1) - 1/2): n = 128 does not overflow too early. n = 0 gives p itself, exactly.
        s = _power_of_two(n - const(1, "int32"))
        return let(s, lambda s: const(2, F32) * (s * p + (s - const(0.5, F32))))

    return let(x, lambda x: select(x == const(0, F32), x, _reduce_exp(clip(x, -18.0, 89.0), scaled)))


_LOG = (0.33333310509502484, -0.24999986143075961, 0.20002223149405046, -0.16669273402581475, 0.1421872584459461,
        -0.12384009240202494, 0.11872257840982489, -0.11791446171664308, 0.069186747530923798)  # fmt: skip


def _split_float(x: PrimExpr, then: Callable[[PrimExpr, PrimExpr], PrimExpr]) -> PrimExpr:
    """then(e, f) with x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2); `x` positive and finite."""
    tiny = x < const(1.1754943508222875e-38, F32)
    whole = select(tiny, x * const(2.0**23, F32), x)
    offset = select(tiny, const(-23, "int32"), const(0, "int32"))
    start = 0x3F3504F3  # the bits of sqrt(1/2)

    def parts(i: PrimExpr) -> PrimExpr:
        steps = tirx.shift_right(i, const(23, "int32"))
        low = tirx.bitwise_and(i, const(0x7FFFFF, "int32")) + const(start, "int32")
        f = from_bits(low) - const(1, F32)
        return let(tirx.Cast(F32, steps + offset), lambda e: let(f, lambda f: then(e, f)))

    return let(bits(whole) - const(start, "int32"), parts)


def _log_edges(x: PrimExpr, finite: PrimExpr) -> PrimExpr:
    """Logarithms at +inf, NaN, 0 and below."""
    low = select(x < const(0, F32), const(nan, F32), const(-inf, F32))
    return select(x > const(0, F32), select(x < const(inf, F32), finite, x), select(isnan(x), x, low))


def _log1p_poly(f: PrimExpr) -> PrimExpr:
    """log(1 + f) - f for small f: -f^2/2 + f^3 P(f)."""
    return let(f * f, lambda s: s * f * poly(f, _LOG) - s * const(0.5, F32))


def ln(x: PrimExpr) -> PrimExpr:
    """Natural logarithm."""
    if dtype_of(x) != F32:
        return libm("log", x)

    def joined(e: PrimExpr, f: PrimExpr) -> PrimExpr:
        return (_log1p_poly(f) + e * const(_LN2_LOW, F32)) + f + e * const(_LN2_HIGH, F32)

    return let(x, lambda x: _log_edges(x, _split_float(x, joined)))


def log2(x: PrimExpr) -> PrimExpr:
    """Logarithm to base 2, exact for powers of two: log2(e) - 1 is multiplied apart from the leading f."""
    if dtype_of(x) != F32:
        return libm("log2", x)
    extra = const(1 / log(2) - 1, F32)

    def joined(e: PrimExpr, f: PrimExpr) -> PrimExpr:
        return let(_log1p_poly(f), lambda q: ((q * extra + f * extra) + q) + f + e)

    return let(x, lambda x: _log_edges(x, _split_float(x, joined)))


def log1p(x: PrimExpr) -> PrimExpr:
    """log(1 + x), accurate near 0: the rounding error of 1 + x is put back to first order."""
    if dtype_of(x) != F32:
        return libm("log1p", x)

    def corrected(x: PrimExpr, u: PrimExpr) -> PrimExpr:
        # (u + -1) instead of (u - 1): TVM may cancel 1 + x - 1
        rest = (x - (u + const(-1, F32))) / u
        ordinary = tirx.And(u > const(0, F32), u < const(inf, F32))
        return let(ln(u), lambda y: select(x == const(0, F32), x, select(ordinary, y + rest, y)))

    return let(x, lambda x: let(_hide(x + const(1, F32)), lambda u: corrected(x, u)))


def _hide(x: PrimExpr) -> PrimExpr:
    """The same value, opaque to TVM's algebra."""
    return from_bits(bits(x))


_TANH = (-0.333332783823936, 0.13331330291359259, -0.053729305625047644, 0.020602166897328789, -0.0056608954368107221)


def tanh(x: PrimExpr) -> PrimExpr:
    """x + x^3 P(x^2) for |x| < 0.625, 1 - 2 / (e^(2|x|) + 1) beyond."""
    if dtype_of(x) != F32:
        return libm("tanh", x)

    def positive(a: PrimExpr) -> PrimExpr:
        small = let(a * a, lambda s: a + a * s * poly(s, _TANH))
        large = const(1, F32) - const(2, F32) / (exp_flushed(minimum(const(20, F32), a + a)) + const(1, F32))
        return select(a < const(0.625, F32), small, large)

    return let(x, lambda x: copysign(let(absolute(x), positive), x))


def sigmoid(x: PrimExpr) -> PrimExpr:
    """1 / (1 + z) or z / (1 + z) with z = e^-|x|: no overflow, and tiny results keep their digits."""
    one = const(1, dtype_of(x))

    def both(x: PrimExpr) -> PrimExpr:
        z = exp(negate(absolute(x)))
        return let(z, lambda z: select(x < const(0, dtype_of(x)), z, one) / (one + z))

    return let(x, both)


_TAIL = (-1.0, -1.1511052051862576, -0.4592081981664598, -0.052496172106207925, 0.0070634084115334951,
         -0.00013692509582444569, -0.00018618597453428913, 3.9379148699036574e-05, -2.8350579104066006e-06)  # fmt: skip
_EXP2 = (1.0, 0.6931469776000586, 0.24022242077873481, 0.055507337339570362, 0.0096715131067411574,
         0.0013264732101532883)  # fmt: skip


def normal_tail(a: PrimExpr) -> PrimExpr:
    """Phi(-a), the normal distribution's tail, for float32 `a` in [0, 6]: 2^P(a), absolute error 1e-7.

    2^z = 2^n 2^f: the integer n is added to the exponent's bits.
    """

    def scaled(z: PrimExpr, shifted: PrimExpr) -> PrimExpr:
        f = z - (shifted - const(_MAGIC, F32))
        power = let(f, lambda f: poly(f, _EXP2))
        exponent = tirx.shift_left(tirx.reinterpret("uint32", shifted), tirx.const(23, "uint32"))
        return tirx.reinterpret(F32, tirx.reinterpret("uint32", power) + exponent)

    return let(poly(a, _TAIL), lambda z: let(z + const(_MAGIC, F32), lambda s: scaled(z, s)))


_ERF = (0.12837914274183451, -0.37612448568382018, 0.11281346656330081, -0.02674975722380259, 0.004968752302652652,
        -0.00058681228752159793)  # fmt: skip
_ERFC = (-0.12864846594100865, -0.63515141334284508, -0.10623672222437668, 0.023761935159903703,
         -0.0036424025497504933, 0.00032279123545809509, -1.1230211317139264e-05)  # fmt: skip


def erf(x: PrimExpr) -> PrimExpr:
    """x + x P(x^2) for |x| < 0.927734375, 1 - exp(|x| Q(|x|) - |x|) beyond."""
    if dtype_of(x) != F32:
        return libm("erf", x)

    def both(x: PrimExpr) -> PrimExpr:
        small = let(x * x, lambda s: x + x * poly(s, _ERF))

        def far(a: PrimExpr) -> PrimExpr:
            tail = let(minimum(const(4, F32), a), lambda t: exp_flushed(t * poly(t, _ERFC) - t))
            return select(a < const(0.927734375, F32), small, copysign(const(1, F32) - tail, x))

        return let(absolute(x), far)

    return let(x, both)
