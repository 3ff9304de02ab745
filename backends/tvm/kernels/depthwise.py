"""Depthwise convolution (1d, 2d, 3d): one filter a channel, sixteen channels a vector, float32.

    y[n, c, z] = epilogue(b[c] + sum over taps k of z:  x[n, c, z*stride - pad + k*dilation] * w[c, k])

Neighbouring pixels of a tile share their loads; weights are packed [channel block][kd][kh][kw][lane].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

from ..epilogue import Epilogue, plan_operands, reads_exact_lanes, wants_blocked
from ..template import Choice, Lowered, Packed, Refused, Task, Wants, distinct
from .conv import Conv, pack_bias, read_conv
from .emit import Buffer, Expr, Function, PackedArg, const
from .rows import Rows
from .window import Run


class Depthwise:
    """The template: as many groups as input and as output channels."""

    name = "depthwise"

    @property
    def kernel(self) -> type[DepthwiseKernel]:
        """What multiplies."""
        return DepthwiseKernel

    def read(self, task: Task) -> Conv | Refused:
        """Geometry of the region's convolution, or why this template cannot take it."""
        return read_conv(task)

    def wants(self, task: Task) -> Wants | Refused:
        """Everything blocked."""
        conv = self.read(task)
        if isinstance(conv, Refused):
            return conv
        if not conv.groups == conv.channels == conv.out_channels or conv.groups == 1:
            return Refused(f"{conv.groups} groups of {conv.channels} channels to {conv.out_channels} are not depthwise")
        return wants_blocked(task, {conv.x: (f"c{task.target.block}",)})

    def space(self, task: Task) -> Sequence[Choice]:
        """Pixels of a tile, and what a task of the parallel loop is: rows or single tiles."""
        conv = self.read(task)
        assert isinstance(conv, Conv)
        default = self.kernel(task, conv)
        shares = (default.by_tile, not default.by_tile)
        kernels = (self.kernel(task, conv, p, share) for p in pixels_to_try(task, conv.axes[2].out) for share in shares)
        return distinct([default.choice, *(kernel.choice for kernel in kernels)])

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Parallel over rows, tiles of pixels within a row."""
        conv = self.read(task)
        assert isinstance(conv, Conv)
        if choice is None:
            return self.kernel(task, conv).lower()
        return self.kernel(task, conv, int(choice["pixels"]), choice["share"] == "tiles").lower()


def pixels_in_registers(task: Task) -> int:
    """Width of a tile: accumulators and as many loaded pixels and weights must fit the registers."""
    vectors = max(1, task.target.block // task.target.lanes)
    return max(1, (task.target.registers - 4) // 3 // vectors)


def pixels_to_try(task: Task, row: int) -> list[int]:
    """Widths of a tile that may be fast: what fits the registers with and without loaded pixels, and halves of it."""
    fits = pixels_in_registers(task)
    widths = (fits, 2 * fits, 3 * fits // 2, fits // 2, fits // 4, 1)
    return list(dict.fromkeys(max(1, min(width, row)) for width in widths))


class DepthwiseKernel:
    """The depthwise kernel of one task."""

    def __init__(self, task: Task, conv: Conv, pixels: int | None = None, by_tile: bool | None = None) -> None:
        """`pixels` a tile and whether tiles, not rows, are shared among threads; chosen where not given."""
        self.task, self.conv = task, conv
        self.block = task.target.block
        self.layout = f"c{self.block}"
        self.blocks = -(-conv.channels // self.block)
        self.pixels = min(pixels or pixels_in_registers(task), conv.axes[2].out)
        self.rows = Rows.plan(conv.axes[2], self.pixels, 1)
        if by_tile is None:
            by_tile = conv.batch * self.blocks * prod(a.out for a in conv.axes[:2]) < 8 * task.target.threads
        self.by_tile = by_tile and not self.rows.loop_taps

    @property
    def choice(self) -> Choice:
        """What was chosen."""
        return {"pixels": self.pixels, "share": "tiles" if self.by_tile else "rows"}

    def lower(self) -> Lowered:
        """Emit everything."""
        conv, layout = self.conv, self.layout
        bias = [] if conv.bias is None else [pack_bias(conv.bias, self.blocks * self.block, self.block)]
        operands = plan_operands(self.task, layout, [conv.w] if conv.bias is None else [conv.w, conv.bias])
        self.exact = conv.channels % self.block != 0 and reads_exact_lanes(self.task, operands)
        anchor: Any = self.task.region.anchor_node
        with Function(self.task, layout, operands, [self._pack_weight(), *bias]) as f:
            self.f, self.epilogue = f, Epilogue(f, anchor)
            space = tuple(a.size for a in conv.axes)
            self.x = f.alias(f.inputs[conv.x], (conv.batch, self.blocks, *space, self.block))
            self._emit()
        return Lowered(f.func, f.args, layout, self.choice)

    def _emit(self) -> None:
        """The parallel loop over images, channel blocks and rows (or tiles, where rows are few)."""
        f, (d, h, _) = self.f, self.conv.axes
        parts = [self.conv.batch, self.blocks, d.out, h.out, self.rows.count if self.by_tile else 1]
        with f.parallel(prod(parts)) as task:
            *place, tile = f.unravel(task, parts)

            def body(start: Expr, run: Run | None) -> None:
                self._tile(place, start, run)

            if self.by_tile:
                self.rows.tile(f, tile, body)
            else:
                self.rows.row(f, body)

    def _tile(self, place: list[Expr], start: Expr, run: Run | None) -> None:
        """Accumulate and store some pixels of one row and channel block."""
        f, (n, c, z, y) = self.f, place
        acc = [f.vector(self.block) for _ in range(run.width if run else 1)]
        for vector in acc:
            with f.lanes(self.block) as v:
                f.store(vector, const(0.0) if self.conv.bias is None else f.weights[1][c * self.block + v], [v])
        axes = self.conv.axes
        (z_low, z_high), (y_low, y_high) = axes[0].bounds(z), axes[1].bounds(y)
        with f.serial(z_high, z_low) as kd, f.serial(y_high, y_low) as kh:

            def each(kw: Expr, pixels: Iterable[int]) -> None:
                for i in pixels:
                    outs, taps = (z, y, start + i), (kd, kh, kw)
                    where = [a.source(p, k) for a, p, k in zip(axes, outs, taps, strict=True)]
                    with f.lanes(self.block) as v:
                        product = self.x[(n, c, *where, v)] * f.weights[0][c, kd, kh, kw, v]
                        f.store(acc[i], acc[i][v] + product, [v])

            self.rows.taps(f, start, run, each)
        self._finish(acc, n, c, [z, y, start])

    def _finish(self, vectors: list[Buffer], n: Expr, c: Expr, at: list[Expr]) -> None:
        """Epilogue and store; where an operand ends at the last channel, its block is stored lane by lane."""
        rank = len(self.task.output.shape) - 2

        def write(kept: int) -> None:
            self._store(vectors, kept, n, c, lambda i: [at[0], at[1], at[2] + i][3 - rank :])

        if self.exact:
            rest = self.conv.channels % self.block
            self.f.branches([(c < self.blocks - 1, lambda: write(self.block)), (True, lambda: write(rest))])
        else:
            write(self.block)

    def _store(self, vectors: list[Buffer], kept: int, n: Expr, c: Expr, where: Callable[[int], list[Expr]]) -> None:
        """Epilogue and store of the first `kept` lanes of each pixel."""
        for i, vector in enumerate(vectors):
            with self.f.lanes(kept) as v:
                self.epilogue.store([n, c * self.block + v, *where(i)], vector[v])

    def _pack_weight(self) -> PackedArg:
        """[channel block, kd, kh, kw, lane], zeros in the lanes past the channels."""
        kernel = tuple(a.kernel for a in self.conv.axes)
        blocks, block = self.blocks, self.block

        def pack(weight: np.ndarray) -> np.ndarray:
            padded = np.zeros((blocks * block, *kernel), weight.dtype)
            padded[: weight.shape[0]] = weight.reshape(-1, *kernel)
            return np.ascontiguousarray(np.moveaxis(padded.reshape(blocks, block, *kernel), 1, -1))

        return PackedArg(Packed(self.conv.w, f"Odhw{block}o", pack), (blocks, *kernel, block))
