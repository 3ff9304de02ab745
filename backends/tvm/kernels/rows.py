"""How a windowed operator walks along an output row: tiles of pixels whose taps are written out.

    row = left border tiles, inner tiles (one body in a loop), right border tiles

Where that would be too much code (kernels of 31 taps), the taps become a loop: over all of them for the inner
tiles, within bounds for border pixels, which then go one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from .emit import Expr, Function
from .window import Axis, Run, runs, unrolled

_BODY = 256
_TOTAL = 1024
"""Vector operations written out in one tile and in all tiles of a kernel (compile time grows with them)."""

Body = Callable[[Expr, Run | None], None]
"""Emits the tile at a start pixel; without a run it is a single pixel with a loop over its taps."""


@dataclass(frozen=True)
class Rows:
    """The tiles of a row along `axis`."""

    axis: Axis
    tiles: tuple[Run, ...]
    loop_taps: bool

    @staticmethod
    def plan(axis: Axis, width: int, operations: int) -> Rows:
        """Tiles of at most `width` pixels; each pixel and tap costs `operations` vector operations."""
        tiles = runs(axis, width)
        largest = max(run.fmas for run in tiles) * operations
        if largest > _BODY or unrolled(tiles) * operations > _TOTAL:
            return Rows(axis, tuple(runs(axis, width, axis.interior)), loop_taps=True)
        return Rows(axis, tuple(tiles), loop_taps=False)

    @property
    def count(self) -> int:
        """Tiles in a row."""
        return sum(run.count for run in self.tiles)

    def row(self, f: Function, body: Body) -> None:
        """Emit all tiles of a row."""
        for run in self.tiles:
            with f.serial(run.count) as i:
                body(run.start + i * run.width, run)
        if self.loop_taps:
            inner = self.axis.interior
            for lo, hi in ((0, inner.start), (inner.stop, self.axis.out)) if inner else ((0, self.axis.out),):
                if lo < hi:
                    with f.serial(hi, lo) as x:
                        body(x, None)

    def tile(self, f: Function, index: Expr, body: Body) -> None:
        """Emit the tile of number `index`: one branch for each run."""
        cases: list[tuple[Expr, Callable[[], None]]] = []
        first = 0
        for run in self.tiles:
            start = run.start + (index - first) * run.width
            first += run.count
            cases.append((index < first, partial(body, start, run)))
        f.branches(cases)

    def taps(self, f: Function, start: Expr, run: Run | None, each: Callable[[Expr, Iterable[int]], None]) -> None:
        """Call `each(tap, pixels of the tile that see it)` for every tap of the tile."""
        width = run.width if run else 1
        if run and not self.loop_taps:
            for tap in range(self.axis.kernel):
                each(tap, [i for i in range(width) if tap in run.taps[i]])
            return
        low, high = (0, self.axis.kernel) if run else self.axis.bounds(start)
        with f.serial(high, low) as tap:
            each(tap, range(width))
