"""The generic scheduler: stages to loops. Every stage gets a vector axis, everything gets one parallel loop.

Two shapes of code. Where all stages agree on their leading axes (softmax, layer norm), one parallel loop walks these
rows and each stage is computed into scratch that stays in the first-level cache:

    parallel row:  for stage in stages: stage[row, ...]

Otherwise each stage is a loop nest of its own. Sums over a contiguous axis run in lane-wide partial sums, combined
in a fixed order: the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from ..compat import tirx
from ..kernels.ahead import look_ahead_rows
from ..kernels.emit import Expr
from .access import Axis, choose_axis, merge_reduced, row_prefix
from .region import PARALLEL_ELEMENTS, RegionBuilder, as_truth, as_type, in_memory
from .stage import Stage
from .turned import Tiles, Turn, plan_turn

TASKS = (64, 8, 512)
"""Tasks that the parallel loop should have for each thread; the first is the default."""

WIDE = (4, 2, 8, 1)
"""Vector registers that one step of a sum fills."""

_ROWS = -1
"""Tiles across the lines of a result, as an axis."""


class Nest:
    """Emits the loops of one region."""

    def __init__(self, builder: RegionBuilder, tasks: int = TASKS[0], wide: int = WIDE[0]) -> None:
        """The builder's last stage is the region's result; `tasks` and `wide` as above."""
        self.tasks, self.wide = tasks, wide
        self.b = builder
        self.f = builder.f
        self.stages = builder.stages
        self.threads = self.f.task.target.threads

    def emit(self) -> None:
        """Rows where possible, else one nest a stage."""
        *inner, out = self.stages
        out.buffer = self.f.output
        prefix = row_prefix(self.b, self.f.task.target.lanes) if inner else 0
        extents = out.domain.extents
        rows = prod(extents[:prefix])
        if prefix and rows >= 2 * self.threads:
            self._rows(inner, out, prefix, rows)
            return
        for stage in inner:
            stage.buffer = self.f.scratch((prod(stage.domain.extents),), in_memory(stage.dtype))
            self._stage(stage, [], parallel=True)
        turn = plan_turn(self.b, out)
        if turn is not None:
            self._tiles(out, turn)
        else:
            self._stage(out, [], parallel=True)

    def _tiles(self, stage: Stage, turn: Turn) -> None:
        """One loop over all tiles: those along the result's lines last."""
        tiles, extents = Tiles(self.b, stage, turn, self._put), stage.domain.extents
        outer = [d for d in range(len(extents)) if d not in (*turn.across, *turn.along)]
        rows, columns = tiles.counts

        def finish(position: dict[int, Expr], column: Expr) -> None:
            tiles.emit([position.get(d, 0) for d in range(len(extents))], position[_ROWS], column)

        loop = self._parallel if prod(extents) > PARALLEL_ELEMENTS else self._alone
        loop([*outer, _ROWS], [*(extents[d] for d in outer), rows], columns, finish)

    def _rows(self, inner: Sequence[Stage], out: Stage, prefix: int, rows: int) -> None:
        work = sum(prod(s.domain.extents) * prod(s.reduce) for s in self.stages)
        loop = self.f.parallel if work > PARALLEL_ELEMENTS else self.f.serial
        with loop(rows) as row:
            fixed = self.f.unravel(row, out.domain.extents[:prefix])
            look_ahead_rows(self.f, row, out.domain.extents[:prefix])
            for stage in inner:
                stage.prefix = prefix
                stage.buffer = self.f.scratch((prod(stage.domain.extents[prefix:]),), in_memory(stage.dtype))
                self._stage(stage, fixed, parallel=False)
            self._stage(out, fixed, parallel=False)

    def _stage(self, stage: Stage, fixed: list[Expr], parallel: bool) -> None:
        """One stage: choose its vector axis, open the outer loops, then the body."""
        lanes = self.f.task.target.lanes
        merge_reduced(self.b, stage, lanes)
        axis = choose_axis(self.b, stage, len(fixed), lanes)
        extents = stage.domain.extents
        outer = [d for d in axis.order if d >= len(fixed) and d != axis.spatial and d != stage.scan]
        counts = [extents[d] for d in outer]
        width, blocks = self._blocks(stage, axis)
        body = self._body(stage, axis, width)
        work = prod(extents[len(fixed) :]) * prod(stage.reduce)

        def finish(position: dict[int, Expr], block: Expr) -> None:
            body([*fixed, *(position.get(d, 0) for d in range(len(fixed), len(extents)))], block)

        loop = self._parallel if parallel and work > PARALLEL_ELEMENTS else self._alone
        loop(outer, counts, blocks, finish)

    def _alone(
        self, outer: list[int], counts: list[int], blocks: int, finish: Callable[[dict[int, Expr], Expr], None]
    ) -> None:
        """All loops in one thread."""
        self._serial(outer, counts, blocks, {}, finish)

    def _parallel(
        self, outer: list[int], counts: list[int], blocks: int, finish: Callable[[dict[int, Expr], Expr], None]
    ) -> None:
        """Fuse as many outer loops as make enough tasks, vector blocks last."""
        split = next((k for k in range(len(counts) + 1) if prod(counts[:k]) >= self.tasks * self.threads), len(counts))
        tasks = prod(counts[:split])
        if tasks >= 4 * self.threads or blocks == 1:
            with self.f.parallel(tasks) as task:
                taken = dict(zip(outer[:split], self.f.unravel(task, counts[:split]), strict=True))
                self._serial(outer[split:], counts[split:], blocks, taken, finish)
            return
        with self.f.parallel(tasks * blocks) as task:
            *index, block = self.f.unravel(task, [*counts, blocks])
            finish(dict(zip(outer, index, strict=True)), block)

    def _serial(
        self,
        outer: Sequence[int],
        counts: Sequence[int],
        blocks: int,
        taken: dict[int, Expr],
        finish: Callable[[dict[int, Expr], Expr], None],
    ) -> None:
        if outer:
            if counts[0] == 1:
                self._serial(outer[1:], counts[1:], blocks, {**taken, outer[0]: 0}, finish)
                return
            with self.f.serial(counts[0]) as i:
                self._serial(outer[1:], counts[1:], blocks, {**taken, outer[0]: i}, finish)
        elif blocks == 1:
            finish(taken, 0)
        else:
            with self.f.serial(blocks) as block:
                finish(taken, block)

    def _blocks(self, stage: Stage, axis: Axis) -> tuple[int, int]:
        """(lanes of a vector, vectors along the axis) for a spatial axis."""
        if axis.spatial is None:
            return 1, 1
        extent = stage.domain.extents[axis.spatial]
        if stage.domain.blocked:
            return extent, 1
        lanes = self.f.task.target.lanes
        wide = lanes * self.wide if stage.reduce and extent % (lanes * self.wide) == 0 else lanes
        width = min(extent, wide)
        return width, -(-extent // width)

    def _body(self, stage: Stage, axis: Axis, width: int) -> Callable[[list[Expr], Expr], None]:
        """What runs for each outer index and vector block."""
        if axis.reduce is not None:
            return lambda position, _: self._lane_sums(stage, position, axis.reduce)

        def body(position: list[Expr], block: Expr) -> None:
            if axis.spatial is None:
                self._vector(stage, position, None, 0, 1)
                return
            start = block * width
            full, last = self._widths(stage, axis.spatial, width, position)

            def piece(n: int) -> Callable[[], None]:
                return lambda: self._vector(stage, position, axis.spatial, start, n)

            if full is None:
                piece(width)()
            else:
                where = full(block)
                cases: list[tuple[Expr, Callable[[], None]]] = [(where, piece(width)), (True, piece(last))]
                self.f.branches(cases)

        return body

    def _widths(
        self, stage: Stage, d: int, width: int, position: Sequence[Expr]
    ) -> tuple[Callable[[Expr], Expr] | None, int]:
        """When a vector is full, and how many lanes the last one has: an axis need not be a multiple of lanes."""
        extents = stage.domain.extents
        channels = stage.shape[1] if len(stage.shape) > 1 else 0
        if stage.domain.blocked:  # lanes past the last channel are left alone
            rest = channels % extents[-1]
            if rest == 0:
                return None, 0
            if extents[1] == 1:
                return (lambda block: False), rest
            return (lambda block: position[1] < extents[1] - 1), rest
        rest = extents[d] % width
        if rest == 0:
            return None, 0
        blocks = -(-extents[d] // width)
        return (lambda block: block < blocks - 1), rest

    def _vector(self, stage: Stage, position: Sequence[Expr], d: int | None, start: Expr, n: int) -> None:
        """Compute `n` neighbours along axis `d` and store them."""

        def at(v: Expr) -> list[Expr]:
            return [start + v if i == d else p for i, p in enumerate(position)]

        if stage.combine is None:
            with self.f.lanes(n) as v:
                self._put(stage, at(v), stage.value(stage.domain.logical(at(v)), ()))
            return
        acc = self._accumulator(stage, n)
        if stage.scan is not None:
            self._scan(stage, position, at, acc, n)
            return

        def accumulate(r: Sequence[Expr]) -> None:
            with self.f.lanes(n) as v:
                value = stage.value(stage.domain.logical(at(v)), r)
                self._combine(stage, acc, v, value)
            self.b.forget()

        self._reduce_loops(stage.reduce, (), accumulate)
        with self.f.lanes(n) as v:
            self._put(stage, at(v), as_truth(acc[v], stage.dtype))

    def _accumulator(self, stage: Stage, n: int) -> Any:
        """`n` lanes that begin at `initial`. Running sums are long chains of roundings, so they run in float64."""
        wide = stage.scan is not None and stage.dtype == "float32"
        acc = self.f.vector(n, "float64" if wide else in_memory(stage.dtype))
        with self.f.lanes(n) as v:
            self.f.store(acc, tirx.const(stage.initial, acc.dtype), [v])
        return acc

    def _combine(self, stage: Stage, acc: Any, lane: Expr, value: Expr) -> None:
        """acc[lane] = combine(acc[lane], value)."""
        assert stage.combine is not None
        dtype = "bool" if stage.dtype == "bool" else str(acc.dtype)
        result = stage.combine(as_truth(acc[lane], dtype), as_type(value, dtype))
        self.f.store(acc, as_type(result, str(acc.dtype)), [lane])

    def _scan(self, stage: Stage, position: Sequence[Expr], at: Callable[[Expr], list[Expr]], acc: Any, n: int) -> None:
        assert stage.scan is not None
        with self.f.serial(stage.domain.extents[stage.scan]) as i, self.f.lanes(n) as v:
            here = at(v)
            here[stage.scan] = i
            self._combine(stage, acc, v, as_type(stage.value(here, ()), stage.dtype))
            self._put(stage, here, acc[v])

    def _reduce_loops(
        self, extents: Sequence[int], index: tuple[Expr, ...], body: Callable[[Sequence[Expr]], None]
    ) -> None:
        if not extents:
            body(index)
        elif extents[0] == 1:
            self._reduce_loops(extents[1:], (*index, 0), body)
        else:
            with self.f.serial(extents[0]) as r:
                self._reduce_loops(extents[1:], (*index, r), body)

    def _lane_sums(self, stage: Stage, position: Sequence[Expr], d: int | None) -> None:
        """Aggregate along a contiguous axis: lane-wide partial results, then a tree over the lanes."""
        assert d is not None
        lanes, extent = self.f.task.target.lanes, stage.reduce[d]
        width = lanes * self.wide if extent >= 2 * lanes * self.wide else min(lanes, extent)
        index = stage.domain.logical(position)
        acc = self._accumulator(stage, width)

        def add(r: Sequence[Expr], start: Expr, n: int) -> None:
            with self.f.lanes(n) as v:
                where = [start + v if i == d else x for i, x in enumerate(r)]
                self._combine(stage, acc, v, stage.value(index, where))
            self.b.forget()

        def along(r: Sequence[Expr]) -> None:
            done = 0
            for n in dict.fromkeys((width, min(width, lanes), extent % min(width, lanes))):
                count = (extent - done) // n if n else 0
                if count == 1:
                    add(r, done, n)
                elif count > 1:
                    with self.f.serial(count) as k:
                        # named, since a common factor of n and a row's length hides from TVM what lies in a row
                        add(r, self.f.let(done + k * n, extent), n)
                done += count * n

        self._reduce_loops([1 if i == d else e for i, e in enumerate(stage.reduce)], (), along)
        while width > 1:
            half = (width + 1) // 2
            with self.f.lanes(width - half) as v:
                self._combine(stage, acc, v, as_truth(acc[half + v], stage.dtype))
            width = half
        self._put(stage, position, as_truth(acc[0], stage.dtype))

    def _put(self, stage: Stage, position: Sequence[Expr], value: Expr) -> None:
        """Store one element (of a vector) at its physical position."""
        where = list(position)
        if stage.buffer is not self.f.output:
            where = [self.b.offset(where[stage.prefix :], stage.domain.extents[stage.prefix :])]
        value = as_type(as_type(value, stage.dtype), str(stage.buffer.dtype))
        self.f.store(stage.buffer, value, [self.f.simplify(i) for i in where])
        self.b.forget()
