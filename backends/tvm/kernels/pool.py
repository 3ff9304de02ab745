"""Pooling windows in blocked channels, sixteen channels a vector, float32.

    max:      y[n, c, z] = epilogue(max over taps k of z: x[n, c, z*stride - pad + k*dilation])       (NaN wins)
    average:  y[n, c, z] = epilogue((sum over taps k of z: x[...]) / divisor(z))
    adaptive: the taps of z are floor(z*size/out) ... ceil((z+1)*size/out) - 1

divisor(z) counts the window's pixels, with or without padding, as PyTorch does, also where ceil_mode lets the last
window hang over the padded image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import fx

from ..compat import tirx
from ..epilogue import Epilogue, plan_operands, reads_exact_lanes, wants_blocked
from ..plan import computed_dtype
from ..template import Choice, Lowered, Refused, Task, Wants
from ..views import shape_of
from .depthwise import pixels_to_try
from .emit import Buffer, Expr, Function, const
from .rows import Rows
from .window import Axes, Axis, Run, three_axes

aten = torch.ops.aten
MAX = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
AVERAGE = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
ADAPTIVE = (aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default)


@dataclass(frozen=True)
class Pooling:
    """A pool's geometry; `kind` is "max", "average", "adaptive" or "sum"; `divisor` 0 counts the window."""

    kind: str
    batch: int
    channels: int
    axes: Axes
    x: int
    include_pad: bool = True
    divisor: int = 0


def read_pool(task: Task) -> Pooling | Refused:
    """Geometry of the region's pool, or why this template cannot take it."""
    anchor = task.region.anchor_node
    if anchor is None or anchor.target not in (*MAX, *AVERAGE, *ADAPTIVE):
        return Refused("not a pool")
    source: Any = anchor.args[0]
    if source not in task.region.placeholders:
        return Refused("its input is computed inside the region")
    position = task.region.placeholders.index(source)
    if computed_dtype(task.inputs[position].dtype) != "float32" or position in task.constants:
        return Refused("not an activation of float32 or bfloat16")
    if len(shape_of(source)) not in (3, 4, 5):
        return Refused(f"rank {len(shape_of(source))}")
    return pooling(anchor, position)


def pooling(anchor: fx.Node, position: int) -> Pooling:
    """The geometry of a pool whose input is that of `position`."""
    shape, out = shape_of(anchor.args[0]), shape_of(anchor)
    args: list[Any] = [*anchor.args[1:]]
    sizes = zip(shape[2:], out[2:], strict=True)
    if anchor.target in ADAPTIVE:
        axes = [Axis(size, o) for size, o in sizes]
        return Pooling("adaptive", shape[0], shape[1], three_axes(axes), position)
    rank = len(shape) - 2
    kernel, stride, pad = (_full(a, rank) for a in [*args, *[[], 0][len(args) - 1 :]][:3])
    stride = stride or kernel
    dilation = _full(args[3], rank) if anchor.target in MAX and len(args) > 3 else [1] * rank
    axes = [Axis(*s, *a) for s, *a in zip(sizes, kernel, stride, pad, dilation, strict=True)]
    if anchor.target in MAX:
        return Pooling("max", shape[0], shape[1], three_axes(axes), position)
    include, divisor = (args[4] if len(args) > 4 else True), (args[5] if len(args) > 5 else None)
    return Pooling("average", shape[0], shape[1], three_axes(axes), position, bool(include), divisor or 0)


def _full(value: Any, rank: int) -> list[int]:
    """A list as long as the spatial rank (an empty one stays empty)."""
    listed = [value] if isinstance(value, int) else list(value)
    return listed * rank if len(listed) == 1 else listed


class Pool:
    """The template: max, average and adaptive average pools."""

    name = "pool"

    def wants(self, task: Task) -> Wants | Refused:
        """Everything blocked."""
        pool = read_pool(task)
        if isinstance(pool, Refused):
            return pool
        return wants_blocked(task, {pool.x: (f"c{task.target.block}",)})

    def space(self, task: Task) -> Sequence[Choice]:
        """Pixels of a tile."""
        pool = read_pool(task)
        assert isinstance(pool, Pooling)
        if pool.kind == "adaptive":
            return ()
        return [{"pixels": pixels} for pixels in pixels_to_try(task, pool.axes[2].out)]

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Parallel over rows, tiles of pixels within a row."""
        pool = read_pool(task)
        assert isinstance(pool, Pooling)
        return PoolKernel(task, pool, None if choice is None else int(choice["pixels"])).lower()


class PoolKernel:
    """The pooling kernel of one task."""

    def __init__(self, task: Task, pool: Pooling, pixels: int | None = None) -> None:
        """`pixels` a tile; as many as fit the registers where not given."""
        self.task, self.pool = task, pool
        self.block = task.target.block
        self.blocks = -(-pool.channels // self.block)
        self.layout = f"c{self.block}"
        self.pixels = pixels or pixels_to_try(task, pool.axes[2].out)[0]
        self.rows = Rows.plan(pool.axes[2], self.pixels, 3 if pool.kind == "max" else 1)

    def lower(self) -> Lowered:
        """Emit everything."""
        pool = self.pool
        with self.open() as f:
            self.f = f
            self.ready(f)
            space = tuple(a.size for a in pool.axes)
            self.x = f.alias(f.inputs[pool.x], (pool.batch, self.blocks, *space, self.block))
            parts = [pool.batch, self.blocks, pool.axes[0].out, pool.axes[1].out]
            with f.parallel(prod(parts)) as task:
                place = f.unravel(task, parts)
                if pool.kind == "adaptive":
                    with f.serial(pool.axes[2].out) as x:
                        self._adaptive(place, x)
                else:
                    self.rows.row(f, lambda start, run: self._tile(place, start, run))
        return Lowered(f.func, f.args, self.layout, {} if pool.kind == "adaptive" else {"pixels": self.pixels})

    def open(self) -> Function:
        """The function to emit into."""
        operands = plan_operands(self.task, self.layout, [])
        self.exact = self.pool.channels % self.block != 0 and reads_exact_lanes(self.task, operands)
        return Function(self.task, self.layout, operands)

    def ready(self, f: Function) -> None:
        """Begin to emit."""
        anchor: Any = self.task.region.anchor_node
        self.epilogue = Epilogue(f, anchor)

    def _tile(self, place: list[Expr], start: Expr, run: Run | None) -> None:
        """Some pixels of one row and channel block."""
        f, (n, c, z, y), axes = self.f, place, self.pool.axes
        width = run.width if run else 1
        acc = self.start(width)
        (z_low, z_high), (y_low, y_high) = axes[0].bounds(z), axes[1].bounds(y)
        with f.serial(z_high, z_low) as kd, f.serial(y_high, y_low) as kh:

            def each(kw: Expr, pixels: Iterable[int]) -> None:
                for i in pixels:
                    outs, taps = (z, y, start + i), (kd, kh, kw)
                    where = [a.source(p, k) for a, p, k in zip(axes, outs, taps, strict=True)]
                    self.tap(acc[i], [n, c, *where])

            self.rows.taps(f, start, run, each)
        taps = [None if run is None else len(run.taps[i]) for i in range(width)]
        counts = [self._divisor([z, y, start + i], taps[i]) for i in range(width)]
        self._finish(acc, counts, n, c, [z, y, start])

    def _adaptive(self, place: list[Expr], x: Expr) -> None:
        """One pixel whose window is a share of the image."""
        f, (n, c, z, y) = self.f, place
        acc = self.start(1)
        bounds = [
            (f.let(tirx.floordiv(p * a.size, a.out)), f.let(tirx.floordiv((p + 1) * a.size + a.out - 1, a.out)))
            for a, p in zip(self.pool.axes, (z, y, x), strict=True)
        ]
        loops = [f.serial(high, low) for low, high in bounds]
        with loops[0] as d, loops[1] as h, loops[2] as w:
            self.tap(acc[0], [n, c, d, h, w])
        self._finish(acc, [prod((high - low for low, high in bounds), start=1)], n, c, [z, y, x])

    def start(self, width: int) -> list[Buffer]:
        """Accumulators that nothing went into."""
        acc = [self.f.vector(self.block) for _ in range(width)]
        for vector in acc:
            with self.f.lanes(self.block) as v:
                self.f.store(vector, const(float("-inf") if self.pool.kind == "max" else 0.0), [v])
        return acc

    def tap(self, vector: Buffer, index: list[Expr]) -> None:
        """Take one pixel into account. A maximum that is NaN stays NaN, and a NaN pixel becomes it."""
        with self.f.lanes(self.block) as v:
            pixel = self.x[(*index, v)]
            if self.pool.kind == "max":
                larger = tirx.Or(pixel > vector[v], tirx.isnan(pixel))
                self.f.store(vector, tirx.Select(larger, pixel, vector[v]), [v])
            else:
                self.f.store(vector, vector[v] + pixel, [v])

    def _divisor(self, at: list[Expr], taps: int | None) -> Expr | None:
        """How many pixels the average at pixel `at` is taken over; `taps` along the row if known."""
        pool = self.pool
        if not self.counted():
            return None
        if pool.divisor:
            return pool.divisor
        count: Expr = 1
        for position, (axis, p) in enumerate(zip(pool.axes, at, strict=True)):
            if pool.kind == "average" and pool.include_pad:
                count = count * _padded_count(axis, p)
            elif position == 2 and taps is not None:
                count = count * taps
            else:
                low, high = axis.bounds(p)
                count = count * (high - low)
        return count

    def counted(self) -> bool:
        """Whether the number of a window's pixels matters."""
        return self.pool.kind != "max"

    def _finish(self, acc: list[Buffer], counts: list[Expr | None], n: Expr, c: Expr, at: list[Expr]) -> None:
        """Divide, epilogue, store; where an operand ends at the last channel, its block is stored lane by lane."""
        rank = len(self.task.output.shape) - 2

        def write(lanes: int) -> None:
            for i, (vector, count) in enumerate(zip(acc, counts, strict=True)):
                self.write(vector, count, lanes, [n, c], [at[0], at[1], at[2] + i][3 - rank :])

        if self.exact:
            rest = self.pool.channels % self.block
            self.f.branches([(c < self.blocks - 1, lambda: write(self.block)), (True, lambda: write(rest))])
        else:
            write(self.block)

    def write(self, vector: Buffer, count: Expr | None, lanes: int, lead: list[Expr], trail: list[Expr]) -> None:
        """Divide, epilogue, store; `lead` are batch and block."""
        with self.f.lanes(lanes) as v:
            value = vector[v] if count is None else vector[v] / tirx.Cast("float32", count)
            self.epilogue.store([lead[0], lead[1] * self.block + v, *trail], value)


def _padded_count(axis: Axis, z: Expr) -> Expr:
    """Window extent at pixel `z`, padding included, but not what hangs over the padded image."""
    if (axis.out - 1) * axis.stride - axis.pad + axis.kernel <= axis.size + axis.pad:
        return axis.kernel
    return tirx.min(axis.kernel, axis.size + 2 * axis.pad - z * axis.stride)
