"""Depthwise convolution (1d, 2d, 3d) of codes in blocked channels: uint8 times int8, sums in int32, exact.

    y[n, c, z] = epilogue(b[c] + sum over taps k of z:  (x[n, c, z*stride - pad + k*dilation] - x_zero) · w[c, k])

Four neighbours of a row lie behind each other, each with all channels of a block. One shuffle puts the four of a
channel side by side, and a product of quads does four taps (`quads.py`, `dot.py`). Rows that are too short for that,
dilated taps and taps in a loop are multiplied one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..compat import tirx
from ..template import Lowered, Packed, Refused, Task
from .borders import Classes, border_key, column_class
from .conv import Conv, read_integer_conv
from .depthwise import Depthwise, DepthwiseKernel
from .dot import QUAD, products, wrapped
from .emit import Buffer, Expr, Function, PackedArg
from .integer_sums import IntegerSums
from .quads import Group, groups_of
from .window import Run


class DepthwiseInteger(Depthwise):
    """The template: as many groups as input and as output channels."""

    name = "depthwise_integer"

    @property
    def kernel(self) -> type[DepthwiseKernel]:
        """What multiplies."""
        return _Kernel

    def read(self, task: Task) -> Conv | Refused:
        """Geometry of the region's convolution of codes, or why this template cannot take it."""
        return read_integer_conv(task)


class _Kernel(DepthwiseKernel):
    """The depthwise kernel of codes."""

    def __init__(self, task: Task, conv: Conv, pixels: int | None = None, by_tile: bool | None = None) -> None:
        """As for floats."""
        super().__init__(task, conv, pixels, by_tile)
        self.classes = tuple(Classes.of(a) for a in conv.axes)
        width = conv.axes[2]
        self.products = products(task.target, self.block)
        self.in_quads = width.dilation == 1 and width.size >= QUAD and not self.rows.loop_taps
        self.groups: dict[Run, list[Group]] = {}
        if self.in_quads:
            self.groups = {run: groups_of(width, run) for run in self.rows.tiles}
        found = {v for groups in self.groups.values() for group in groups for _, v in group.readers}
        self.variants = sorted(found, key=lambda v: (v.first, v.low, v.high))

    def lower(self) -> Lowered:
        """Emit everything."""
        conv = self.conv
        self.sums = IntegerSums(self.task, self.layout, self.block, self.blocks * self.block, conv.w, conv.bias)
        operands = self.sums.operands()
        self.exact = self.sums.ends_inside(operands)
        kernel = [a.kernel for a in conv.axes]
        rest = self.sums.pack(conv.x_zero, self.classes, kernel, border_key(conv.axes))
        weight = self._pack_quads() if self.in_quads else self._pack_taps()
        with Function(self.task, self.layout, operands, [weight, *rest]) as f:
            self.f = f
            self.sums.open(f)
            *space, width = (a.size for a in conv.axes)
            self.x = f.alias(f.inputs[conv.x], (conv.batch, self.blocks, *space, width * self.block))
            self._emit()
        return Lowered(f.func, f.args, self.layout, self.choice)

    def _tile(self, place: list[Expr], start: Expr, run: Run | None) -> None:
        """Accumulate and store some pixels of one row and channel block."""
        f, (n, c, z, y) = self.f, place
        vectors = [f.vector(self.block, "int32") for _ in range(run.width if run else 1)]
        outer = [f.let(k.number(p)) for k, p in zip(self.classes, (z, y), strict=False)]
        for i, vector in enumerate(vectors):
            column = column_class(f, self.classes[2], start, i, run)
            self.sums.start(vector, c * self.block, [*outer, column])
        axes = self.conv.axes
        (z_low, z_high), (y_low, y_high) = axes[0].bounds(z), axes[1].bounds(y)
        with f.serial(z_high, z_low) as kd, f.serial(y_high, y_low) as kh:
            row = (n, c, axes[0].source(z, kd), axes[1].source(y, kh))
            if self.in_quads:
                assert run is not None
                self._multiply_groups(vectors, row, (c, kd, kh), start, self.groups[run])
            else:
                self.rows.taps(f, start, run, lambda kw, i: self._multiply(vectors, row, (c, kd, kh, kw), start, i))
        self._finish(vectors, n, c, [z, y, start])

    def _multiply_groups(
        self, vectors: list[Buffer], row: Sequence[Expr], tap: Sequence[Expr], start: Expr, groups: list[Group]
    ) -> None:
        """All taps of a row, four at a time."""
        block, lanes = self.block, QUAD * self.block
        first = start * self.conv.axes[2].stride - self.conv.axes[2].pad
        order = [tirx.const(j * block + v, "int32") for v in range(block) for j in range(QUAD)]
        for group in groups:
            place = self.f.simplify((first + group.column) * block)
            turned = tirx.Shuffle([self.x[(*row, tirx.Ramp(place, 1, lanes))]], order)
            quads = self.f.vector(block, "int32")
            every = tirx.Ramp(0, 1, block)
            self.f.store(quads, tirx.reinterpret(f"int32x{block}", turned), [every])
            for pixel, variant in group.readers:
                number = self.variants.index(variant)
                self.products.add(vectors[pixel], quads[every], self.f.weights[0], (*tap, number))

    def _multiply(
        self, vectors: list[Buffer], row: Sequence[Expr], tap: Sequence[Expr], start: Expr, pixels: Iterable[int]
    ) -> None:
        """One tap."""
        for i in pixels:
            column = self.conv.axes[2].source(start + i, tap[-1])
            with self.f.lanes(self.block) as v:
                x = tirx.Cast("int32", self.x[(*row, self.f.simplify(column * self.block) + v)])
                product = x * tirx.Cast("int32", self.f.weights[0][(*tap, v)])
                self.f.store(vectors[i], wrapped(vectors[i][v], product), [v])

    def _store(self, vectors: list[Buffer], kept: int, n: Expr, c: Expr, where: Callable[[int], list[Expr]]) -> None:
        """Epilogue and store of the first `kept` lanes of each pixel."""
        self.sums.store_row(vectors, kept, [n], c * self.block, where)

    def _pack_quads(self) -> PackedArg:
        """[channel block, kd, kh, variant, *products], zeros past the channels."""
        kernel = tuple(a.kernel for a in self.conv.axes)
        blocks, block, variants, ways = self.blocks, self.block, self.variants, self.products

        def pack(weight: np.ndarray) -> np.ndarray:
            held = _padded(weight, kernel, blocks * block)
            table = np.zeros((*held.shape[:3], len(variants), QUAD), np.int8)
            for number, variant in enumerate(variants):
                for k in range(variant.low, variant.high):
                    table[..., number, k - variant.first] = held[..., k]
            split = table.reshape(blocks, block, *table.shape[1:])
            return ways.pack(np.moveaxis(split, 1, -1))

        key = f"Odh{len(variants)}q{block}o{ways.name}" + "".join(f"_{v.first}.{v.low}.{v.high}" for v in variants)
        dims = (blocks, *kernel[:2], len(variants), *ways.dims)
        return PackedArg(Packed(self.conv.w, key, pack), dims, ways.dtype)

    def _pack_taps(self) -> PackedArg:
        """[channel block, kd, kh, kw, lane], zeros past the channels."""
        kernel = tuple(a.kernel for a in self.conv.axes)
        blocks, block = self.blocks, self.block

        def pack(weight: np.ndarray) -> np.ndarray:
            held = _padded(weight, kernel, blocks * block)
            return np.ascontiguousarray(np.moveaxis(held.reshape(blocks, block, *kernel), 1, -1))

        return PackedArg(Packed(self.conv.w, f"Odhw{block}o", pack), (blocks, *kernel, block), "int8")


def _padded(weight: np.ndarray, kernel: Sequence[int], channels: int) -> np.ndarray:
    """[channel, kd, kh, kw] with zeros up to `channels`."""
    held = np.zeros((channels, *kernel), np.int8)
    held[: weight.shape[0]] = weight.reshape(-1, *kernel)
    return held
