"""The accumulators of a tile, summed in parts so that long sums round little.

    total = initial + (x1*w1 + ... ) + (xi*wi + ...) + ...        parts of about PART terms

One float32 accumulator over n terms has an error that grows like n; parts of length p make it sqrt(n p). The parts
cost one addition for each of their terms' hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..compat import tirx
from .bfloat16 import dot
from .emit import Buffer, Expr, Function, const

PART = 192
"""Terms that are added up in one accumulator."""


def parts_of(length: int, terms: int = 1) -> tuple[int, int]:
    """(number, size): how a loop of `length` steps of `terms` terms each is cut into parts."""
    number = max(1, min(length, round(length * terms / PART)))
    size = -(-length // number)
    return -(-length // size), size


def part_end(f: Function, part: Expr, size: int, length: int) -> Expr:
    """Where part number `part` ends."""
    end = (part + 1) * size
    return end if length % size == 0 else f.let(tirx.min(end, length))


class Accumulators:
    """`rows` by `blocks` vectors of `lanes`, in registers; with `parts`, a second set holds the total."""

    def __init__(self, f: Function, rows: int, blocks: int, lanes: int, parts: bool) -> None:
        """Declare the vectors where the tile begins."""
        self._f = f
        self.lanes = lanes
        self.vectors = [[f.vector(lanes) for _ in range(blocks)] for _ in range(rows)]
        self._totals = [[f.vector(lanes) for _ in range(blocks)] for _ in range(rows)] if parts else self.vectors
        self._parts = parts

    def start(self, initial: Callable[[int, Expr], Expr]) -> None:
        """Set each total to `initial(block, lane)`."""
        for row in self._totals:
            for b, vector in enumerate(row):
                with self._f.lanes(self.lanes) as v:
                    self._f.store(vector, initial(b, v), [v])

    @contextmanager
    def part(self) -> Iterator[None]:
        """What is accumulated inside is one part of the total."""
        if self._parts:
            self._each(lambda vector, total, v: self._f.store(vector, const(0.0), [v]))
        yield
        if self._parts:
            self._each(lambda vector, total, v: self._f.store(total, total[v] + vector[v], [v]))

    def _each(self, body: Callable[[Buffer, Buffer, Expr], None]) -> None:
        for row, totals in zip(self.vectors, self._totals, strict=True):
            for vector, total in zip(row, totals, strict=True):
                with self._f.lanes(self.lanes) as v:
                    body(vector, total, v)

    def add(self, row: int, block: int, scalar: Expr, factors: Buffer, place: tuple[Expr, ...]) -> None:
        """Add `scalar * factors[place, lane]` to one vector."""
        vector = self.vectors[row][block]
        with self._f.lanes(self.lanes) as v:
            self._f.store(vector, vector[v] + scalar * factors[(*place, v)], [v])

    def add_pair(self, row: int, block: int, pair: Expr, factors: Buffer, place: tuple[Expr, ...]) -> None:
        """Add both products of a pair of bfloat16 numbers to one vector."""
        dot(self.vectors[row][block], self.lanes, pair, factors, place)

    def total(self, row: int, block: int) -> Buffer:
        """The finished sum."""
        return self._totals[row][block]
