"""Direct convolution (1d, 2d, 3d) in blocked channels, float32 or bfloat16.

    y[n, o, z] = epilogue(b[o] + sum over c, taps k of z:  x[n, c, z*stride - pad + k*dilation] * w[o, c, k])

The accumulators of a tile (pixels x channel blocks) stay in registers over the whole sum. There is no padded
copy: a tile at the left or right border is written out with the taps it has, rows are cut by loop bounds. Weights
are packed in the order in which they are read (`conv_direct_weight`), so that a core reads them as one stream.

The input may be PLAIN as well (it is only ever read one scalar at a time): that is how an RGB stem reads an image.

Where the CPU multiplies pairs of bfloat16, a step of the sum is a pair of channels, which lie side by side in x and w.
Of a PLAIN image two neighbouring taps of a row are such a pair.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from functools import partial
from math import prod
from typing import Any

from ..compat import tirx
from ..epilogue import Epilogue, plan_operands, reads_exact_lanes
from ..plan import PLAIN, itemsize
from ..template import Choice, Lowered, Task
from .accumulate import PART, Accumulators, part_end, parts_of
from .ahead import AHEAD, look_ahead
from .bfloat16 import dot_products, pair_of
from .conv import Conv, has_pairs, has_tap_pairs, inner_of, pack_bias
from .conv_direct_weight import CHANNELS, TAPS, pack_weight
from .conv_walk import UNTUNED, Place, Walk
from .emit import Buffer, Expr, Function, PackedArg, const
from .rows import Rows
from .tiles import L2_BYTES, ORDERS, Tile
from .window import Axis, Run


class DirectKernel:
    """The convolution kernel of one task, for one tile; what is not given beside the tile is chosen."""

    flattens = True
    """Whether a pointwise convolution walks over its image as over one row."""

    def __init__(self, task: Task, conv: Conv, tile: Tile, walk: Walk = UNTUNED) -> None:
        """Plan everything; nothing is emitted yet."""
        order, by_tile, ahead = walk
        self.task, self.tile = task, tile
        self.layout = f"c{task.target.block}"
        self.lanes, self.inner = tile.block, inner_of(conv, task.target.block)
        pixels = prod(a.out for a in conv.axes)
        self.flat = conv.pointwise and pixels > 1 and self.flattens
        self.conv = conv
        self.axes = (Axis(1, 1), Axis(1, 1), Axis(pixels, pixels)) if self.flat else conv.axes
        self.in_channels = conv.channels // conv.groups
        self.in_blocks = -(-self.in_channels // self.inner)
        one_pixel = prod(a.size for a in conv.axes) == 1
        beside = task.inputs[conv.x].layout != PLAIN or (one_pixel and conv.channels % 2 == 0)
        self.pairs = beside and has_pairs(conv, task)
        self.steps = -(-self.inner // 2) if self.pairs else self.inner
        plain_rows = task.inputs[conv.x].layout == PLAIN and not self.pairs and has_tap_pairs(conv, task)
        self.chunks = -(-conv.out_channels // self.lanes) // tile.blocks
        self.rows = Rows.plan(self.axes[2], tile.rows, tile.blocks)
        self.tap_pairs = plain_rows and not self.rows.loop_taps
        self.weights_first = self._keep_weights() if order is None else order == ORDERS[0]
        self.by_tile = self.flat or (not self.rows.loop_taps and (self._few_rows() if by_tile is None else by_tile))
        self.ahead = (AHEAD if self._weight_bytes > L2_BYTES else 0) if ahead is None else ahead

    @property
    def choice(self) -> Choice:
        """What was chosen."""
        share = "tiles" if self.by_tile else "rows"
        order = ORDERS[not self.weights_first]
        return {"tile": self.tile.name, "order": order, "share": share, "ahead": self.ahead}

    @property
    def _weight_bytes(self) -> int:
        each = itemsize(self.task.inputs[self.conv.w].dtype)
        return each * self.conv.out_channels * self.in_channels * prod(a.kernel for a in self.conv.axes)

    def lower(self) -> Lowered:
        """Emit everything."""
        taken = [self.conv.w] + ([] if self.conv.bias is None else [self.conv.bias])
        operands = plan_operands(self.task, self.layout, taken)
        weights = [self._pack_weight()]
        if self.conv.bias is not None:
            weights.append(pack_bias(self.conv.bias, self.chunks * self.tile.columns, self.lanes))
        self.exact = self.conv.out_channels % self.lanes != 0 and reads_exact_lanes(self.task, operands)
        anchor: Any = self.task.region.anchor_node
        dots = dot_products(self.lanes) if self.pairs or self.tap_pairs else nullcontext()
        with Function(self.task, self.layout, operands, weights) as f, dots:
            self.f = f
            self.epilogue = Epilogue(f, anchor)
            self.x = self._input_view()
            self._emit()
        return Lowered(f.func, f.args, self.layout, self.choice)

    def _input_view(self) -> Buffer:
        """The input as [n, channel or block, d, h, w(, lane)]; as [..., pair] in pairs."""
        value = self.task.inputs[self.conv.x]
        space = tuple(a.size for a in self.axes)
        block = self.task.target.block
        plain = value.layout == PLAIN
        channels, lane = (self.conv.channels, ()) if plain else (-(-self.conv.channels // block), (block,))
        if self.pairs and plain:
            return self.f.pairs(self.f.inputs[self.conv.x], (self.conv.batch, channels // 2, *space))
        if self.pairs:
            return self.f.pairs(self.f.inputs[self.conv.x], (self.conv.batch, channels, *space, block // 2))
        return self.f.alias(self.f.inputs[self.conv.x], (self.conv.batch, channels, *space, *lane))

    def _emit(self) -> None:
        """The parallel loop over batch, chunks of output channels and rows (or tiles, where rows are few)."""
        (d, h, _) = self.axes
        parts = [self.chunks, self.conv.batch, d.out, h.out, self._tiles if self.by_tile else 1]
        order = [0, 1, 2, 3, 4] if self.weights_first else [1, 2, 3, 4, 0]
        with self.f.parallel(prod(parts)) as task:
            where: list[Expr] = [0] * 5
            for axis, index in zip(order, self.f.unravel(task, [parts[a] for a in order]), strict=True):
                where[axis] = index
            *place, tile = where
            self._row(Place(*place), tile)

    @property
    def _tiles(self) -> int:
        """How many tiles there are in a row."""
        return self.rows.count

    def _row(self, place: Place, tile: Expr) -> None:
        """One task of the parallel loop: a row, or one tile of it."""
        if self.by_tile:
            self.rows.tile(self.f, tile, partial(self._tile, place))
        else:
            self.rows.row(self.f, partial(self._tile, place))

    def _few_rows(self) -> bool:
        """Whether whole rows are too few to share them evenly among threads."""
        d, h, _ = self.axes
        return self.conv.batch * self.chunks * d.out * h.out < 8 * self.task.target.threads

    def _keep_weights(self) -> bool:
        """Whether each chunk's weights are read once and the input once a chunk, or the input once (see L2_BYTES)."""
        weights = self._weight_bytes
        each = itemsize(self.task.inputs[self.conv.x].dtype)
        image = each * self.conv.batch * self.conv.channels * prod(a.size for a in self.axes)
        rows = self.conv.batch * self.axes[0].out * self.axes[1].out * (self.rows.count if self.flat else 1)
        chunk_first = weights + image * (self.chunks if image > L2_BYTES else 1)
        row_first = image + weights * (rows if weights > L2_BYTES else 1)
        return chunk_first <= row_first

    def _tile(self, at: Place, start: Expr, run: Run | None) -> None:
        """Accumulate one tile and store it."""
        f, width = self.f, run.width if run else 1
        taps = prod(a.reach for a in self.axes)
        dots = self.pairs or self.tap_pairs
        by_row = taps * self.inner > 2 * PART and not dots
        parts, size = (self.in_blocks, 1) if by_row else parts_of(self.in_blocks, taps * self.inner)
        if dots:  # the sum of rounded products needs no more than one accumulator
            parts, size = 1, self.in_blocks
        acc = Accumulators(f, width, self.tile.blocks, self.lanes, by_row or parts > 1)
        acc.start(lambda b, v: self._initial(at.chunk * self.tile.blocks + b, v))
        (z_low, z_high), (y_low, y_high) = self.axes[0].bounds(at.z), self.axes[1].bounds(at.y)
        with ExitStack() as loops:
            part = loops.enter_context(f.serial(parts))
            loops.enter_context(nullcontext() if by_row else acc.part())
            ic = loops.enter_context(f.serial(part_end(f, part, size, self.in_blocks), part * size))
            lanes = self._lanes_of(ic)
            kd = loops.enter_context(f.serial(z_high, z_low))
            kh = loops.enter_context(f.serial(y_high, y_low))
            loops.enter_context(acc.part() if by_row else nullcontext())
            ii = loops.enter_context(f.serial(lanes))
            self._look_ahead(at, (ic, kd, kh), ii)
            self.mask = self._mask(ic, ii)

            def each(kw: Expr, pixels: Iterable[int]) -> None:
                self._multiply(acc, at, (ic, kd, kh, ii, kw), start, pixels)

            if self.tap_pairs:
                assert run is not None
                self._multiply_rows(acc, at, (ic, kd, kh, ii), start, run)
            else:
                self.rows.taps(f, start, run, each)
        self._finish(acc, width, at, start)

    def _look_ahead(self, at: Place, tap: tuple[Expr, Expr, Expr], ii: Expr) -> None:
        """Ask for the weights of a later step: their order is the one in which they are read."""
        (ic, *taps), places = tap, (at.z, at.y)
        kept = [a.kept(p, k) for a, p, k in zip(self.axes, places, taps, strict=False)]
        look_ahead(self.f, self.f.weights[0], (at.chunk, ic, *kept, ii), self.ahead)

    def _lanes_of(self, ic: Expr) -> Expr:
        """Steps in block `ic`: never a lane past the last channel."""
        if self.in_channels % self.inner == 0:
            return self.steps
        rest = self.in_channels - ic * self.inner
        return self.f.let(tirx.min(self.steps, tirx.floordiv(rest + 1, 2) if self.pairs else rest))

    def _mask(self, ic: Expr, ii: Expr) -> Expr:
        """What to keep of a pair; of the last of an odd number of channels only the first."""
        if not self.pairs or self.in_channels % 2 == 0:
            return None
        whole = ic * self.inner + 2 * ii + 1 < self.in_channels
        return self.f.let(tirx.Select(whole, tirx.const(-1, "int32"), tirx.const(0xFFFF, "int32")))

    def _multiply(
        self, acc: Accumulators, at: Place, tap: tuple[Expr, ...], start: Expr, pixels: Iterable[int]
    ) -> None:
        """One tap of one input channel: pixels outermost, or every broadcast is hoisted and spills."""
        weight = self.f.weights[0]
        ic, kd, kh, ii, kw = tap
        for i in pixels:
            outs, taps = (at.z, at.y, start + i), (kd, kh, kw)
            where = [a.source(p, k) for a, p, k in zip(self.axes, outs, taps, strict=True)]
            kept = [a.kept(p, k) for a, p, k in zip(self.axes, outs, taps, strict=True)]
            add = acc.add_pair if self.pairs else acc.add
            for b in range(self.tile.blocks):
                x = self._x(at, ic, ii, where)
                add(i, b, x, weight, (at.chunk, ic, kept[0], kept[1], ii, kept[2], b))

    def _multiply_rows(self, acc: Accumulators, at: Place, tap: tuple[Expr, ...], start: Expr, run: Run) -> None:
        """All taps of a row of one input channel, two at a time."""
        ic, kd, kh, ii = tap
        d, h, w = self.axes
        for j in range(-(-w.kernel // 2)):
            for i in range(run.width):
                where = [at.n, ii, d.source(at.z, kd), h.source(at.y, kh)]
                low, high = (
                    self.x.bits[(*where, w.source(start + i, k))] if k in run.taps[i] else None
                    for k in (2 * j, 2 * j + 1)
                )
                if low is None and high is None:
                    continue
                for b in range(self.tile.blocks):
                    acc.add_pair(i, b, pair_of(low, high), self.f.weights[0], (at.chunk, ic, kd, kh, ii, j, b))

    def _x(self, at: Place, ic: Expr, ii: Expr, where: list[Expr]) -> Expr:
        """One scalar of the input, or one pair."""
        group = at.chunk // (self.chunks // self.conv.groups) if self.conv.groups > 1 else 0
        first = group * self.in_channels + ic * self.inner
        each = 2 if self.pairs else 1
        if self.task.inputs[self.conv.x].layout == PLAIN:
            return self.x[(at.n, self.f.simplify(first // each) + ii, *where)]
        block = self.task.target.block
        x = self.x[(at.n, self.f.simplify(first // block), *where, self.f.simplify(first % block // each) + ii)]
        return x if self.mask is None else tirx.bitwise_and(x, self.mask)

    def _initial(self, block: Expr, v: Expr) -> Expr:
        return const(0.0) if self.conv.bias is None else self.f.weights[1][block * self.lanes + v]

    def _finish(self, acc: Accumulators, width: int, at: Place, start: Expr) -> None:
        """Epilogue and store; where an operand ends at the last channel, its block is stored lane by lane."""

        def write(last: bool) -> None:
            for i in range(width):
                for b in range(self.tile.blocks):
                    rest = self.conv.out_channels % self.lanes
                    lanes = rest if last and b == self.tile.blocks - 1 else self.lanes
                    with self.f.lanes(lanes) as v:
                        self._store(at, b, start + i, v, acc.total(i, b)[v])

        if self.exact:
            self.f.branches([(at.chunk < self.chunks - 1, lambda: write(False)), (True, lambda: write(True))])
        else:
            write(False)

    def _store(self, at: Place, b: int, x: Expr, v: Expr, total: Expr) -> None:
        """One lane of a pixel: the epilogue, and where it goes."""
        self.epilogue.store(self._index(at, b, x, v), total)

    def _index(self, at: Place, b: int, x: Expr, v: Expr) -> list[Expr]:
        """Logical index of a lane of block `b` of the tile's chunk."""
        channel = (at.chunk * self.tile.blocks + b) * self.lanes + v
        return [at.n, channel, *self._space(at.z, at.y, x)]

    def _space(self, z: Expr, y: Expr, x: Expr) -> list[Expr]:
        """Logical spatial index of an output pixel."""
        rank = len(self.task.output.shape) - 2
        if not self.flat:
            return [z, y, x][3 - rank :]
        outs = [a.out for a in self.conv.axes][3 - rank :]
        index = []
        for position, extent in enumerate(outs):
            inner = prod(outs[position + 1 :])
            part = x if inner == 1 else x // inner
            index.append(part % extent if position else part)
        return index

    def _pack_weight(self) -> PackedArg:
        """The weights in the order in which they are read."""
        return pack_weight(
            self.conv, self.tile, self.inner, CHANNELS if self.pairs else TAPS if self.tap_pairs else None
        )
