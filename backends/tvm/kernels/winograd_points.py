"""The matrices of Winograd's short convolutions, from their interpolation points, and sums that share terms.

    A^T [ (G g G^T) * (B^T d B) ] A  ==  valid correlation of the patch d with the kernel g,  t = m + r - 1

for m outputs and r taps along each axis, each with its own matrices; F(1, 1) leaves an axis alone. t - 1 finite points
and infinity. The rounding error depends on the points alone; the pairs +-a also let every transform share half of its
sums. Max (rms) error of a layer as a multiple of eager's, normal data, 64 to 256 channels, sums of the products in
parts of 32, 3x3:

    F(4,3)  0, +-1, +-2: 22-39 (7.8-10.5, unparted)     0, +-1, 1/2, -2: 4-6 (4.5)     0, +-5/8, +-3/2: 3-4 (3.2)
    F(2,3)  0, +-1:      1-2 (1.2-1.6, unparted)

Where an output sees little more than padding, its tile's error is still that of the whole tile: up to 15 times
eager's on images of a few pixels (2e-6 of the output's scale). All points are among the best of a grid of pairs, and
all coefficients that they give B and A are exact in float32. Along one axis alone the error is not squared: as a share
of the output's scale (64 channels) it is 1.0e-6 for 3x3 with m = 4, 0.9e-6 for 5x5 with m = 2, and along one axis with
m = 4 0.4e-6 for 3 taps, 1.1e-6 for 5 and 1.7e-6 for 7.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..ops.lanes import once
from .emit import Expr, const

PAIRS: dict[int, tuple[Fraction, ...]] = {
    4: (Fraction(1),),
    6: (Fraction(5, 8), Fraction(3, 2)),
    8: (Fraction(1, 2), Fraction(1), Fraction(2)),
    10: (Fraction(3, 8), Fraction(7, 8), Fraction(5, 4), Fraction(5, 2)),
}
"""For each t, the pairs +-a among the finite points; zero is one, too."""

MOST = {1: 10, 2: 6}
"""The largest t, by the number of axes that are transformed: what the error allows."""

WHOLE_PAIRS: dict[int, tuple[Fraction, ...]] = {4: (Fraction(1),), 6: (Fraction(1), Fraction(2))}
"""The same in whole numbers, which have no error (winograd_whole)."""


@dataclass(frozen=True)
class Axial:
    """F(outputs, taps) along one axis."""

    outputs: int
    taps: int
    whole: bool = False
    """With points that are whole numbers."""

    @property
    def points(self) -> int:
        """Products, and pixels that they need: t."""
        return self.outputs + self.taps - 1


@dataclass(frozen=True)
class Form:
    """F(m x m', r x r'): what is done along the rows' axis (height) and along the columns' (width)."""

    height: Axial
    width: Axial

    @property
    def points(self) -> int:
        """Products for each pair of channels and each tile."""
        return self.height.points * self.width.points

    @property
    def outputs(self) -> int:
        """Pixels of a tile."""
        return self.height.outputs * self.width.outputs

    @property
    def taps(self) -> int:
        """Taps of the kernel."""
        return self.height.taps * self.width.taps


def form_of(kernel: tuple[int, int], m: int, whole: bool = False) -> Form | None:
    """Tiles of m outputs along each axis that has taps, or None where there are no points for it."""
    axes = [Axial(1, 1, whole) if taps == 1 else Axial(m, taps, whole) for taps in kernel]
    used = [axis.points for axis in axes if axis.taps > 1]
    known = used and all(t in (WHOLE_PAIRS if whole else PAIRS) and t <= MOST[len(used)] for t in used)
    return Form(*axes) if known else None


def finite_points(axis: Axial) -> tuple[Fraction, ...]:
    """All but infinity."""
    pairs = (WHOLE_PAIRS if axis.whole else PAIRS)[axis.points] if axis.taps > 1 else None
    return () if pairs is None else (Fraction(0), *(sign * a for a in pairs for sign in (1, -1)))


Matrix = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class Matrices:
    """`output` is A^T (m x t), `kernel` is G (t x r), `patch` is B^T (t x t)."""

    output: Matrix
    kernel: Matrix
    patch: Matrix


@functools.cache  # there are a dozen axes
def matrices(axis: Axial) -> Matrices:
    """Toom and Cook's matrices of F(m, r), transposed."""
    points, one, zero, m = finite_points(axis), Fraction(1), Fraction(0), axis.outputs
    output = tuple((*(p**i for p in points), one if i == m - 1 else zero) for i in range(m))
    kernel = tuple(tuple(scale * v for v in row) for row, scale in factors(axis))
    patch = [(*_product([q for q in points if q != p]), zero) for p in points]
    return Matrices(output, kernel, (*patch, _product(points)))


def factors(axis: Axial) -> list[tuple[tuple[Fraction, ...], Fraction]]:
    """G by rows, each as (powers of its point, scale)."""
    rows: list[tuple[tuple[Fraction, ...], Fraction]] = []
    points, taps = finite_points(axis), axis.taps
    for p in points:
        scale = Fraction(1)
        for q in points:
            scale /= (p - q) if q != p else 1
        rows.append((tuple(p**k for k in range(taps)), scale))
    return [*rows, ((Fraction(0),) * (taps - 1) + (Fraction(1),), Fraction(1))]


def terms(matrix: Matrix) -> int:
    """Coefficients that are not zero: what applying the matrix costs."""
    return sum(1 for row in matrix for value in row if value)


def _product(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients of the product of (x - root), constant term first."""
    result = [Fraction(1)]
    for root in roots:
        result = [a - root * b for a, b in zip([Fraction(0), *result], [*result, Fraction(0)], strict=True)]
    return tuple(result)


class Arithmetic:
    """How transforms add and multiply: as they stand, in the dtype of the values."""

    def __init__(self, dtype: str = "float32") -> None:
        """Coefficients are constants of `dtype`."""
        self.dtype = dtype

    def add(self, a: Expr, b: Expr) -> Expr:
        """a + b."""
        return a + b

    def subtract(self, a: Expr, b: Expr) -> Expr:
        """a - b."""
        return a - b

    def scale(self, a: Expr, factor: Fraction) -> Expr:
        """a times a coefficient."""
        return a * const(float(factor), self.dtype)


FLOAT = Arithmetic()


def apply(matrix: Matrix, values: Sequence[Expr], using: Arithmetic = FLOAT) -> list[Expr]:
    """`matrix @ values` inside a lane loop; `values` are read several times, so they must be names or loads.

    Columns that are equal up to signs are added up first (a pair of points in A^T), rows that are equal up to
    signs share their sums (a pair of points in B^T).
    """
    matrix, values = _merge_columns(matrix, values, using)
    results: list[Expr] = [None] * len(matrix)
    for i, row in enumerate(matrix):
        if results[i] is not None:
            continue
        partner = next((k for k in range(i + 1, len(matrix)) if _same_up_to_signs(row, matrix[k])), None)
        if partner is None:
            results[i] = _sum(row, values, using)
            continue
        same = [v if v == w else Fraction(0) for v, w in zip(row, matrix[partner], strict=True)]
        opposite = [v if v != w else Fraction(0) for v, w in zip(row, matrix[partner], strict=True)]
        even, odd = once(_sum(same, values, using)), once(_sum(opposite, values, using))
        results[i], results[partner] = using.add(even, odd), using.subtract(even, odd)
    return results


def _merge_columns(matrix: Matrix, values: Sequence[Expr], using: Arithmetic) -> tuple[Matrix, list[Expr]]:
    """Replace two columns that are equal in some rows and opposite in the others by their sum and difference."""
    columns = [tuple(c) for c in zip(*matrix, strict=True)]
    made: list[tuple[tuple[Fraction, ...], Expr]] = []
    taken: set[int] = set()
    for j, column in enumerate(columns):
        partner = next((k for k in range(j + 1, len(columns)) if _same_up_to_signs(column, columns[k])), None)
        if j in taken or (partner is None or partner in taken):
            made += [] if j in taken else [(column, values[j])]
            continue
        taken.add(partner)
        pairs = list(zip(column, columns[partner], strict=True))
        both, apart = using.add(values[j], values[partner]), using.subtract(values[j], values[partner])
        made.append((tuple(v if v == w else Fraction(0) for v, w in pairs), once(both)))
        made.append((tuple(v if v != w else Fraction(0) for v, w in pairs), once(apart)))
    return tuple(zip(*(column for column, _ in made), strict=True)), [value for _, value in made]


def _same_up_to_signs(a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
    """Whether sums can be shared: equal magnitudes, both agreement and opposition, and more than one term."""
    pairs = [(v, w) for v, w in zip(a, b, strict=True) if v or w]
    return all(abs(v) == abs(w) for v, w in pairs) and {v == w for v, w in pairs} == {True, False}


def _sum(row: Sequence[Fraction], values: Sequence[Expr], using: Arithmetic) -> Expr:
    """Sum of the terms that are not zero, plain ones first."""
    terms = sorted(
        ((c, v) for c, v in zip(row, values, strict=True) if c), key=lambda term: (abs(term[0]) != 1, term[0] < 0)
    )
    total: Any = None
    for c, value in terms:
        if total is None:
            total = value if c == 1 else using.scale(value, c)
        elif abs(c) == 1:
            total = using.add(total, value) if c == 1 else using.subtract(total, value)
        else:
            total = using.add(total, using.scale(value, c))
    return total
