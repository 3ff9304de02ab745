"""Winograd's short convolutions in whole numbers: the same integers as direct sums, modulo 2^32.

    L y  ==  A^T [ U * V ] A        U = G g G^T,  V = B^T d B        B, G, A of whole numbers,  L = odd · 2^k
    y    ==  (odd^-1 · (A^T [ U * V ] A  mod 2^32)) >> k             where |y| < 2^(31-k)

Of Toom and Cook's matrices B is whole where the points are, and G and A have the rows of one diagonal between them,
1/24 · (6, -4, -4, 1, 1, 24) for F(4, 3). Signs and odd parts go to G, powers of two to A, and the denominators become
L. Every sum may then wrap: adding and multiplying are exact modulo 2^32, odd numbers have an inverse there, and
dividing by 2^k leaves 32 - k bits, which hold y if it is known to be that small. What is multiplied must not wrap: with
codes c and a zero point z, |c - z| <= 255 and |g| <= 128,

                 rows of |B^T|   |V| at most     rows of |G|   |U| at most     k    odd
    F(4x4, 3x3)       10            25500             7            6272        6      9
    F(2x2, 3x3)        2             1020             3            1152        2      1

which are int16, so that CPUs multiply them in pairs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from ..compat import tirx
from .dot import wrapped
from .emit import Expr, const
from .winograd_points import Arithmetic, Axial, Form, Matrix, factors, matrices

MOST_CODE, MOST_WEIGHT = 255, 128
"""The largest |c - z| and |g|."""

INT16 = 2**15 - 1


@dataclass(frozen=True)
class Whole:
    """Matrices of one axis: `kernel` is G, `output` is A^T, `patch` is B^T; the sums are `multiple` times y."""

    output: Matrix
    kernel: Matrix
    patch: Matrix
    multiple: int


@functools.cache  # there are a few axes
def whole(axis: Axial) -> Whole:
    """The diagonal n / L between G and A: n = sign · odd · 2^k, by rows of G and columns of A."""
    assert axis.whole
    made, rows = matrices(axis), factors(axis)
    multiple = lcm(*(scale.denominator for _, scale in rows))
    numbers = [int(scale * multiple) for _, scale in rows]
    powers = [number & -number for number in numbers]
    kernel = tuple(tuple(v * (n // p) for v in row) for (row, _), n, p in zip(rows, numbers, powers, strict=True))
    output = tuple(tuple(v * p for v, p in zip(row, powers, strict=True)) for row in made.output)
    return Whole(output, kernel, made.patch, multiple)


@dataclass(frozen=True)
class Unscale:
    """y = (inverse · sum mod 2^32) >> shift."""

    shift: int
    inverse: int

    @property
    def bits(self) -> int:
        """|y| must be below 2^bits."""
        return 31 - self.shift


def unscale(form: Form) -> Unscale:
    """Undoes the multiple of both axes."""
    multiple = whole(form.height).multiple * whole(form.width).multiple
    power = multiple & -multiple
    inverse = pow(multiple // power, -1, 2**32)
    return Unscale(power.bit_length() - 1, inverse - 2**32 * (inverse >= 2**31))


def fits(form: Form) -> bool:
    """Whether transformed codes and weights are int16."""
    height, width = whole(form.height), whole(form.width)
    patch = MOST_CODE * _most(height.patch) * _most(width.patch)
    kernel = MOST_WEIGHT * _most(height.kernel) * _most(width.kernel)
    return max(patch, kernel) <= INT16


def _most(matrix: Matrix) -> Fraction:
    """The largest sum of absolute coefficients in a row."""
    return max(sum((abs(v) for v in row), Fraction(0)) for row in matrix)


class Short(Arithmetic):
    """int16, where nothing overflows."""

    def __init__(self) -> None:
        """Of whole coefficients."""
        super().__init__("int16")

    def scale(self, a: Expr, factor: Fraction) -> Expr:
        """Times a whole number."""
        return a * const(int(factor), "int16")


class Wrapping(Arithmetic):
    """int32 that wraps, as `dot.wrapped` tells."""

    def __init__(self) -> None:
        """Of whole coefficients."""
        super().__init__("int32")

    def add(self, a: Expr, b: Expr) -> Expr:
        """a + b modulo 2^32."""
        return wrapped(a, b)

    def subtract(self, a: Expr, b: Expr) -> Expr:
        """a - b modulo 2^32."""
        return tirx.Cast("int32", tirx.Cast("int64", a) - tirx.Cast("int64", b))

    def scale(self, a: Expr, factor: Fraction | int) -> Expr:
        """Times a whole number, modulo 2^32."""
        return tirx.Cast("int32", tirx.Cast("int64", a) * const(int(factor), "int64"))
