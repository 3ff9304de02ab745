"""Elementary functions as TIR expressions that vectorize: argument reduction and a polynomial, no libm.

    exp(x) = 2^n * p(x - n ln 2);  log(x) = e ln 2 + p(m - 1);  sin(x) = +-p(x - n pi/2)

float32 results are within 2 ulp of the exact value over the whole range: NaN, infinities, signed zeros, denormals
and overflow included (4 ulp for the inverse trigonometric and hyperbolic functions). float64 calls libm.
Polynomials are minimax fits, lowest power first. Values used twice are named by `let`, which emits
statements: see `lanes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, log, nan, pi, sqrt

from ..compat import tirx
from .lanes import PrimExpr, let

F32 = "float32"
F64 = "float64"


def dtype_of(x: PrimExpr) -> str:
    """The expression's dtype, "float32" or "bool"."""
    return str(x.ty.dtype)


def const(value: float | bool, dtype: str) -> PrimExpr:
    """A literal of `dtype`."""
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


def log10(x: PrimExpr) -> PrimExpr:
    """Logarithm to base 10."""
    if dtype_of(x) != F32:
        return libm("log10", x)
    return tirx.Cast(F32, _log2_f64(tirx.Cast(F64, x)) * const(log(2) / log(10), F64))


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
