"""Direct convolution (1d, 2d, 3d) of codes in blocked channels: uint8 times int8, sums in int32, exact.

    y[n, o, z] = epilogue(b[o] + sum over c, taps k of z:  (x[n, c, z*stride - pad + k*dilation] - x_zero) · w[o, c, k])

It walks as the float kernel does, four channels a step (`dot.py`). Sums start at the bias and what the zero point is
worth at the pixel (`borders.py`), so that x is multiplied as it lies and padding costs nothing. The epilogue works on
the sums in registers. Lanes past the last channel have weights of zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from math import prod

import numpy as np

from ..compat import tirx
from ..epilogue import wants_blocked
from ..template import Choice, Lowered, Packed, Refused, Task, Wants, distinct
from .borders import Classes, border_key, column_class
from .conv import Conv, inner_of, lanes_of, read_integer_conv
from .conv_direct_kernel import DirectKernel
from .conv_walk import UNTUNED, Place, Walk
from .dot import QUAD, products, words
from .emit import Buffer, Expr, Function, PackedArg
from .integer_sums import IntegerSums
from .tiles import ORDERS, Product, Tile, choose, tiles_to_try
from .window import Run


class ConvInteger:
    """The template: convolutions of codes, dense or in groups of whole quads."""

    name = "conv_integer"

    def wants(self, task: Task) -> Wants | Refused:
        """Everything blocked."""
        conv = read_integer_conv(task)
        if isinstance(conv, Refused):
            return conv
        block = task.target.block
        if lanes_of(conv, block) < QUAD or (conv.groups > 1 and inner_of(conv, block) % QUAD):
            return Refused(f"groups of {conv.channels // conv.groups} channels are no whole quads")
        return wants_blocked(task, {conv.x: (f"c{task.target.block}",)})

    def space(self, task: Task) -> Sequence[Choice]:
        """Register tiles, what the outer loop walks along, its tasks (rows or single tiles), and looking ahead."""
        conv = read_integer_conv(task)
        assert isinstance(conv, Conv)
        default = IntegerKernel(task, conv, default_tile(conv, task))
        orders = ORDERS if default.weights_first else ORDERS[::-1]
        shares = (default.by_tile, not default.by_tile)
        tiles = tiles_to_try(product_of(conv, task), task.target, default.tile)
        distances = (default.ahead, 0) if default.ahead else (0,)
        return distinct(
            IntegerKernel(task, conv, tile, Walk(order, share, ahead)).choice
            for ahead in distances
            for tile in tiles
            for share in shares
            for order in orders
        )

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Choose the tile, then write the kernel."""
        conv = read_integer_conv(task)
        assert isinstance(conv, Conv)
        if choice is None:
            return IntegerKernel(task, conv, default_tile(conv, task)).lower()
        tile = Tile.parse(choice["tile"], lanes_of(conv, task.target.block))
        return IntegerKernel(task, conv, tile, Walk.parse(choice)).lower()


def product_of(conv: Conv, task: Task) -> Product:
    """The matrix product that a tile is chosen for: rows of pixels, or the whole image of a pointwise convolution."""
    pixels = prod(a.out for a in conv.axes)
    width = pixels if conv.pointwise else conv.axes[2].out
    blocks = -(-(conv.out_channels // conv.groups) // lanes_of(conv, task.target.block))
    depth = conv.channels // conv.groups * prod(a.kernel for a in conv.axes)
    outer = conv.batch * conv.groups * pixels // width
    return Product(width, blocks, depth // QUAD, outer, split_rows=conv.pointwise)


def default_tile(conv: Conv, task: Task) -> Tile:
    """A tile that is good untuned."""
    return choose(product_of(conv, task), task.target, lanes_of(conv, task.target.block))


class IntegerKernel(DirectKernel):
    """The integer convolution of one task, for one tile; what is not given beside the tile is chosen."""

    def __init__(self, task: Task, conv: Conv, tile: Tile, walk: Walk = UNTUNED) -> None:
        """As for float."""
        super().__init__(task, conv, tile, walk)
        self.steps = -(-self.inner // QUAD)
        self.products = products(task.target, self.lanes)
        self.classes = tuple(Classes.of(a) for a in self.axes)

    def lower(self) -> Lowered:
        """Emit everything."""
        conv, outs = self.conv, self.chunks * self.tile.columns
        self.sums = IntegerSums(self.task, self.layout, self.lanes, outs, conv.w, conv.bias)
        operands = self.sums.operands()
        self.exact = self.sums.ends_inside(operands)
        kernel = [a.kernel for a in self.axes]
        weights = [self._pack_weight(), *self.sums.pack(conv.x_zero, self.classes, kernel, border_key(self.axes))]
        with Function(self.task, self.layout, operands, weights) as f:
            self.f = f
            self.sums.open(f)
            self.x = self._input_view()
            self._emit()
        return Lowered(f.func, f.args, self.layout, self.choice)

    def _input_view(self) -> Buffer:
        """The input as [n, block, d, h, w, quad]."""
        block = self.task.target.block
        shape = (self.conv.batch, -(-self.conv.channels // block), *(a.size for a in self.axes), block // QUAD)
        return words(self.f.inputs[self.conv.x], shape)

    def _tile(self, at: Place, start: Expr, run: Run | None) -> None:
        """Accumulate one tile and store it."""
        f, width = self.f, run.width if run else 1
        sums = [[f.vector(self.lanes, "int32") for _ in range(self.tile.blocks)] for _ in range(width)]
        self._start(sums, at, start, run)
        (z_low, z_high), (y_low, y_high) = self.axes[0].bounds(at.z), self.axes[1].bounds(at.y)
        with ExitStack() as loops:
            ic = loops.enter_context(f.serial(self.in_blocks))
            kd = loops.enter_context(f.serial(z_high, z_low))
            kh = loops.enter_context(f.serial(y_high, y_low))
            ii = loops.enter_context(f.serial(self._quads(ic)))
            self._look_ahead(at, (ic, kd, kh), ii)

            def each(kw: Expr, pixels: Iterable[int]) -> None:
                for i in pixels:
                    outs, taps = (at.z, at.y, start + i), (kd, kh, kw)
                    quad = self._quad(
                        at, ic, ii, [a.source(p, k) for a, p, k in zip(self.axes, outs, taps, strict=True)]
                    )
                    for b, vector in enumerate(sums[i]):
                        self.products.add(vector, quad, f.weights[0], (at.chunk, ic, kd, kh, ii, kw, b))

            self.rows.taps(f, start, run, each)
        self._finish_sums(sums, at, start)

    def _quads(self, ic: Expr) -> Expr:
        """Steps in block `ic`."""
        if self.in_channels % self.inner == 0:
            return self.steps
        return self.f.let(tirx.min(self.steps, tirx.floordiv(self.in_channels - ic * self.inner + QUAD - 1, QUAD)))

    def _quad(self, at: Place, ic: Expr, ii: Expr, where: list[Expr]) -> Expr:
        """Four channels of one pixel."""
        group = at.chunk // (self.chunks // self.conv.groups) if self.conv.groups > 1 else 0
        first, block = group * self.in_channels + ic * self.inner, self.task.target.block
        place = (self.f.simplify(first // block), *where, self.f.simplify(first % block // QUAD) + ii)
        return self.x[(at.n, *place)]

    def _start(self, sums: list[list[Buffer]], at: Place, start: Expr, run: Run | None) -> None:
        """The bias, and what the zero point is worth where the pixels lie."""
        z, y = (self.f.let(c.number(p)) for c, p in zip(self.classes, (at.z, at.y), strict=False))
        for i, row in enumerate(sums):
            pixel = (z, y, column_class(self.f, self.classes[2], start, i, run))
            for b, vector in enumerate(row):
                self.sums.start(vector, (at.chunk * self.tile.blocks + b) * self.lanes, pixel)

    def _finish_sums(self, sums: list[list[Buffer]], at: Place, start: Expr) -> None:
        """Epilogue and store; where an operand ends at the last channel, its block is stored lane by lane."""
        rest = self.conv.out_channels % self.lanes

        def write(last: bool) -> None:
            for b, vectors in enumerate(zip(*sums, strict=True)):
                kept = rest if last and b == self.tile.blocks - 1 else self.lanes
                channel = (at.chunk * self.tile.blocks + b) * self.lanes
                self.sums.store_row(vectors, kept, [at.n], channel, lambda i: self._space(at.z, at.y, start + i))

        if self.exact:
            self.f.branches([(at.chunk < self.chunks - 1, lambda: write(False)), (True, lambda: write(True))])
        else:
            write(False)

    def _pack_weight(self) -> PackedArg:
        """[chunk, ic, kd, kh, quad, kw, block, *products], zeros past the channels."""
        lanes, tile, ways = self.lanes, self.tile, self.products
        kernel, inner = tuple(a.kernel for a in self.axes), QUAD * self.steps
        dims = (self.chunks, self.in_blocks, *kernel[:2], self.steps, kernel[2], tile.blocks, *ways.dims)
        outs, ins = self.chunks * tile.columns, self.in_blocks * inner

        def pack(weight: np.ndarray) -> np.ndarray:
            padded = np.zeros((outs, ins, *kernel), np.int8)
            padded[: weight.shape[0], : weight.shape[1]] = weight.reshape(*weight.shape[:2], *kernel)
            split = padded.reshape(self.chunks, tile.blocks, lanes, self.in_blocks, self.steps, QUAD, *kernel)
            return ways.pack(split.transpose(0, 3, 6, 7, 4, 8, 1, 5, 2))

        return PackedArg(Packed(self.conv.w, f"Oidhi{inner}w{tile.blocks}o{lanes}{ways.name}", pack), dims, ways.dtype)
