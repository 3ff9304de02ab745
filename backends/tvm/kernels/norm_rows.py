"""Norms along rows: vectors of elements that share their statistics.

    mean = sum(x) / n      scale = 1 / sqrt(sum((x - mean)^2) / n + eps)      y = (x - mean) * scale * w + b

Some rows are walked at once: what a row's sums wait for, another row's elements fill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import prod
from typing import Any, NamedTuple

from ..generic.region import PARALLEL_ELEMENTS
from ..ops.lanes import once
from ..template import Choice, Task
from .ahead import look_ahead_rows
from .emit import Buffer, Expr, Function, const
from .norm_geometry import RowWalk
from .norm_passes import SEGMENT, NormPasses, parts_of

WIDE, SIDE = (4, 2, 1, 8), (4, 2, 1)
"""Vectors of a row, and rows, that one step takes."""

_SHORT, _SUMS = 512, 8
"""Elements of the rows that are walked at once by default, and the sums that then stay in registers.

Measured, microseconds for 4, 2 and 1 rows at once: 3136 x 96 28.9, 30.0, 30.6; 197 x 384 10.3, 9.6, 7.7;
128 x 768 16.1, 14.3, 12.8.
"""

_KEPT = 1 << 14
"""Elements of rows that may be kept between the passes."""


class Piece(NamedTuple):
    """Some runs of a row, or [start, start + length) of one run; `kept` is where it is kept as float32."""

    row: list[Expr]
    run: Expr | None
    start: Expr
    length: int
    kept: Buffer | None = None


Visit = Callable[[int, int, Expr, Sequence[Expr], Expr], None]
"""(number of the row, of the vector, lane, index of the element, its place in the row)"""


class RowNorm:
    """The kernel of one task."""

    def __init__(self, f: Function, walk: RowWalk, choice: Choice) -> None:
        """`choice` as `choices` has them."""
        self.f, self.walk, self.norm = f, walk, walk.norm
        self.passes = NormPasses(f, walk.norm)
        self.length, self.rows = walk.outer * walk.inner, prod(walk.norm.rows)
        self.vector = f.task.target.lanes
        self.wide, self.side, self.keep = int(choice["wide"]), int(choice["side"]), bool(choice["keep"])

    @staticmethod
    def choices(task: Task, walk: RowWalk) -> list[Choice]:
        """The default first: short rows several at once, and none kept."""
        rows, length, lanes = prod(walk.norm.rows), walk.outer * walk.inner, task.target.lanes
        whole = parts_of(rows, length) == 1
        sides = [side for side in SIDE if side == 1 or (whole and rows >= 4 * side)]
        wides = [wide for wide in WIDE if wide == 1 or walk.inner >= wide * lanes]
        side = next(s for s in sides if s == 1 or s * length <= _SHORT)
        wide = next(w for w in wides if w == 1 or w * side <= _SUMS)
        return [
            {"wide": w, "side": s, "keep": keep}
            for keep in (False, True)
            for s in (side, *sides)
            for w in (wide, *wides)
            if not keep or (whole and s * length <= _KEPT)
        ]

    def emit(self) -> None:
        """Rows at once, or parts of rows."""
        if parts_of(self.rows, self.length) > 1:
            self._emit_parts()
            return
        f, full = self.f, self.rows // self.side
        loop = f.parallel if self.rows * self.length > PARALLEL_ELEMENTS else f.serial
        with loop(-(-self.rows // self.side)) as group:

            def several(count: int) -> Callable[[], None]:
                return lambda: self._rows([group * self.side + s for s in range(count)])

            rest = self.rows % self.side
            cases: list[tuple[Expr, Callable[[], None]]] = [(group < full, several(self.side))]
            f.branches([*cases, (True, several(rest))] if rest else [(True, several(self.side))])

    def _rows(self, numbers: Sequence[Expr]) -> None:
        f, pieces = self.f, []
        for number in numbers:
            look_ahead_rows(f, number + 2 * (self.side - 1), self.norm.rows)
            kept = f.scratch((self.length,)) if self.keep else None
            pieces.append(Piece(f.unravel(number, self.norm.rows), None, 0, self.walk.inner, kept))
        means = None
        if self.norm.centered:
            sums = self._sums(pieces, lambda s, x: x, fill=True)
            means = [self.passes.named(total * const(1 / self.length)) for total in sums]
        squares = self._sums(pieces, self._squared(means), fill=means is None)
        self._finish(pieces, means, [self.passes.named(self.passes.scale(total, self.length)) for total in squares])

    def _squared(self, means: Sequence[Expr] | None) -> Callable[[int, Expr], Expr]:
        return lambda s, x: self.passes.squared(x, None if means is None else means[s])

    def _sums(self, pieces: Sequence[Piece], term: Callable[[int, Expr], Expr], *, fill: bool) -> list[Expr]:
        """The sum of `term` of each piece's elements; `fill` keeps the elements."""
        totals = [[self.passes.filled(self.vector) for _ in range(self.wide)] for _ in pieces]
        parts = totals

        def add(s: int, u: int, v: Expr, index: Sequence[Expr], place: Expr) -> None:
            kept = pieces[s].kept
            if kept is None or fill:
                x = once(self.passes.source.at(index))
                if kept is not None:
                    self.f.store(kept, x, [place])
            else:
                x = kept[place]
            self.f.store(parts[s][u], parts[s][u][v] + term(s, x), [v])

        @contextmanager
        def segment() -> Iterator[None]:
            nonlocal parts
            parts = [[self.passes.filled(self.vector) for _ in row] for row in totals]
            yield
            for row, addends in zip(totals, parts, strict=True):
                for total, addend in zip(row, addends, strict=True):
                    with self.f.lanes(self.vector) as v:
                        self.f.store(total, total[v] + addend[v], [v])
            parts = totals

        self._visit(pieces, add, segment)
        return [self.passes.named(self.passes.fold(row, self.vector)) for row in totals]

    def _finish(self, pieces: Sequence[Piece], means: Sequence[Expr] | None, scales: Sequence[Expr]) -> None:
        """The last pass."""

        def store(s: int, u: int, v: Expr, index: Sequence[Expr], place: Expr) -> None:
            kept = pieces[s].kept
            x = self.passes.source.at(index) if kept is None else kept[place]
            value = (x if means is None else x - means[s]) * scales[s]
            weight, bias = (self.passes.parameter(p, index) for p in (self.norm.weight, self.norm.bias))
            value = value if weight is None else value * weight
            self.passes.store(index, value if bias is None else value + bias)

        self._visit(pieces, store, None)

    def _visit(self, pieces: Sequence[Piece], visit: Visit, segment: Callable[[], Any] | None) -> None:
        """`visit` all elements; with `segment` around as many steps as a sum may have."""
        f, width = self.f, self.wide * self.vector
        (_, run, start, length, _), inner = pieces[0], self.walk.inner
        steps, runs = length // width, 1 if run is not None else self.walk.outer
        several = segment is not None and runs * steps > SEGMENT
        around = segment if several and segment is not None else nullcontext

        def vector(at: Expr, start: Expr, u: int, lanes: int) -> None:
            # named, since a common factor of steps and places hides from TVM what lies side by side
            place = f.let(start + u * self.vector, inner)
            for s, piece in enumerate(pieces):
                with self.passes.lanes(lanes) as v:
                    index = self.walk.index(piece.row, at, place + v)
                    visit(s, u, v, index, at * inner + place + v)

        def loop(at: Expr, first: Expr, count: int) -> None:
            if count:
                with f.serial(count) if count > 1 else nullcontext(0) as k:
                    place = f.let(first + k * width, inner)
                    for u in range(self.wide):
                        vector(at, place, u, self.vector)

        with f.serial(runs) if runs > 1 else nullcontext(0) as o:
            at = o if run is None else run
            done = 0
            if several and steps > SEGMENT:
                done = steps // SEGMENT * SEGMENT
                with f.serial(done // SEGMENT) if done > SEGMENT else nullcontext(0) as k, around():
                    loop(at, f.let(start + k * (SEGMENT * width), inner), SEGMENT)
            with around():
                loop(at, f.let(start + done * width, inner), steps - done)
                rest, place = length - steps * width, f.let(start + steps * width, inner)
                for u in range(-(-rest // self.vector)):
                    vector(at, place, u, min(self.vector, rest - u * self.vector))

    def _emit_parts(self) -> None:
        """Sums of all parts, then squares of all parts, then all results."""
        f, shape = self.f, (self.rows, self.walk.outer * self._cuts()[0])
        sums, squares = f.scratch(shape), f.scratch(shape)

        def total(memory: Buffer, row: Expr) -> Expr:
            found = f.vector(1)
            f.store(found, const(0.0), [0])
            with f.serial(shape[1]) as part:
                f.store(found, found[0] + memory[row, part], [0])
            return found[0]

        def means(row: Expr) -> list[Expr] | None:
            return [self.passes.named(total(sums, row) * const(1 / self.length))] if self.norm.centered else None

        def add(row: Expr, part: Expr, piece: Piece) -> None:
            f.store(sums, self._sums([piece], lambda s, x: x, fill=True)[0], [row, part])

        def square(row: Expr, part: Expr, piece: Piece) -> None:
            f.store(squares, self._sums([piece], self._squared(means(row)), fill=True)[0], [row, part])

        def finish(row: Expr, _: Expr, piece: Piece) -> None:
            scale = self.passes.named(self.passes.scale(total(squares, row), self.length))
            self._finish([piece], means(row), [scale])

        for body in (add, square, finish) if self.norm.centered else (square, finish):
            self._each_part(body)

    def _cuts(self) -> tuple[int, int]:
        """(parts of a run, elements of a part)."""
        wanted = max(1, parts_of(self.rows, self.length) // self.walk.outer)
        size = -(-self.walk.inner // wanted // self.vector) * self.vector
        return -(-self.walk.inner // size), size

    def _each_part(self, body: Callable[[Expr, Expr, Piece], None]) -> None:
        """`body(row, part, piece)` in parallel; the last part of a run may be shorter."""
        f, (cuts, size) = self.f, self._cuts()
        shape = (self.rows, self.walk.outer * cuts)
        with f.parallel(prod(shape)) as task:
            row, part = f.unravel(task, shape)
            run, cut = f.unravel(part, (self.walk.outer, cuts))
            place, start = f.unravel(row, self.norm.rows), f.let(cut * size, self.walk.inner)
            rest = self.walk.inner - (cuts - 1) * size

            def piece(length: int) -> Callable[[], None]:
                return lambda: body(row, part, Piece(place, run, start, length))

            cases: list[tuple[Expr, Callable[[], None]]] = [(cut < cuts - 1, piece(size))] if rest != size else []
            f.branches([*cases, (True, piece(rest))])
