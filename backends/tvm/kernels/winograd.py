"""Winograd's convolution of stride 1, in float32, blocked channels: F(m x m, 3 x 3) with m = 4 or 2, and its kin.

    y[tile] = epilogue(b + A^T [ sum over c:  U[p, c, o] * V[p, tile, c] ] A)     U = G g G^T,  V = B^T d B,  p < t*t

9 m^2 / t^2 multiplications become one: 4 with m = 4 (t = 6), 2.25 with m = 2 (t = 4). The same for 5x5 (2.8), and
along one axis alone for 1x3, 1x5, 1x7, their transposes and sequences (2, 2.5 and 2.8 with m = 4). A task takes a
block of tiles and a group of output channels: it transforms the tiles' patches into V, then for each chunk of channels
makes t*t small matrix products and transforms them back, all in the thread's scratch, which fits the second-level
cache. U is made in float64 once, in the order in which it is read:

    [chunk of output blocks][p][input channel][block of the chunk][lane]

Finite inputs only: an inf becomes NaN over a whole tile, so this template is for numerics="fast". The max error of one
layer of normal data with 64 to 256 channels is 3 to 4 times eager's with m = 4 (about 1e-6 of the output's scale), 1
to 2 times with m = 2; see winograd_points. Whole networks in which every 3x3 layer of stride 1 with 16 or more
channels is computed with m = 4 stay far below the bound of 4 times eager's error, so that any number of layers may be:

    simulated (same points and parts)    VGG-16 0.85   DenseNet-121 1.04   SqueezeNet 1.21   ResNet-50 1.33
    these kernels (direct ones)          VGG-11 1.08 (0.85)   ResNet-18 1.74 (1.24)   Inception V3 0.75 (0.52)

When it is the faster one says `pays` (winograd_cost). Of bfloat16 only what is read and what is stored: rounded
transforms would multiply their error. Four times fewer multiplications still beat pairs on the dot product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..compat import tirx
from ..epilogue import Epilogue, plan_operands, reads_exact_lanes, wants_blocked
from ..ops.lanes import once
from ..template import Choice, Lowered, Refused, Task, Wants, distinct
from .accumulate import Accumulators, part_end
from .ahead import LINE, look_ahead
from .bfloat16 import has_dot
from .conv import Conv, pack_bias, read_conv
from .emit import Buffer, Expr, Function, PackedArg, const
from .tiles import L2_BYTES
from .window import Axis, Run, runs
from .winograd_cost import FLOATS, PAIRS_DIRECT, Blocking, blocking_of, blockings_to_try, pays, plan_blocking, suits
from .winograd_points import FLOAT, apply, matrices
from .winograd_weights import packed_weight

PART = 32
"""Products added up in one accumulator: short parts halve the error that the output transform then multiplies."""


class Winograd:
    """The template: dense convolutions of stride 1 over images and sequences, with kernels that have a short form."""

    def __init__(self, m: int, anywhere: bool = False) -> None:
        """Tiles with sides of `m` pixels, 4 or 2; `anywhere`: also where direct convolution should be faster."""
        assert m in (2, 4), m
        self.m = m
        self.name = f"winograd{m}"
        self._anywhere = anywhere

    def wants(self, task: Task) -> Wants | Refused:
        """Blocked input and output."""
        conv = read_conv(task)
        if isinstance(conv, Refused):
            return conv
        if task.numerics == "strict":
            return Refused("numerics='strict' asks for the direct algorithm")
        if reason := suits(conv, self.m):
            return Refused(reason)
        dots = task.inputs[conv.x].dtype == "bfloat16" and has_dot(task.target)
        if not self._anywhere and not pays(conv, task.target, self.m, PAIRS_DIRECT if dots else FLOATS):
            return Refused("direct convolution should be faster")
        return wants_blocked(task, {conv.x: (f"c{task.target.block}",)})

    def space(self, task: Task) -> Sequence[Choice]:
        """In how many blocks the tiles are cut, register tiles, and how many tasks share a block's output channels."""
        conv = read_conv(task)
        assert isinstance(conv, Conv)
        return distinct(choice_of(blocking) for blocking in blockings_to_try(conv, self.m, task.target))

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Choose the blocks, then write the kernel."""
        conv = read_conv(task)
        assert isinstance(conv, Conv)
        if choice is None:
            return WinogradKernel(task, conv, plan_blocking(conv, self.m, task.target)).lower()
        return WinogradKernel(task, conv, blocking_of(conv, self.m, task.target, cut_of(choice))).lower()


def choice_of(blocking: Blocking) -> Choice:
    """A blocking as tuning writes it."""
    return {"cut": blocking.tile_blocks, "tile": f"{blocking.rows}x{blocking.blocks}", "groups": blocking.groups}


def cut_of(choice: Choice) -> tuple[int, str, int]:
    """What `blocking_of` makes the blocking of."""
    return int(choice["cut"]), str(choice["tile"]), int(choice["groups"])


class WinogradKernel:
    """The kernel of one task, for one blocking."""

    patch_dtype, product_dtype = "float32", "float32"
    patch_arithmetic = FLOAT

    def __init__(self, task: Task, conv: Conv, blocking: Blocking) -> None:
        """Geometry, once for all that is emitted."""
        self.task, self.conv, self.blocking = task, conv, blocking
        self.form = blocking.form
        self.sides = matrices(self.form.height), matrices(self.form.width)
        self.block = task.target.block
        self.columns = blocking.blocks * self.block
        self.in_blocks = -(-conv.channels // self.block)
        self.out_blocks = blocking.chunks * blocking.blocks
        self.layout = f"c{self.block}"
        height, width = conv.axes[1:]
        tiles = -(-height.out // self.form.height.outputs), -(-width.out // self.form.width.outputs)
        self.grid = (conv.batch, *tiles)
        matrix = blocking.numbers.bytes * conv.channels * self.columns
        large = matrix * self.form.points * blocking.chunks > L2_BYTES
        self.ahead = matrix // LINE if large else 0  # while one matrix is multiplied, the next one comes

    def lower(self) -> Lowered:
        """Emit everything."""
        conv, blocking = self.conv, self.blocking
        taken = [conv.w] + ([] if conv.bias is None else [conv.bias])
        operands = plan_operands(self.task, self.layout, taken)
        weights = [self._pack_weight()]
        if conv.bias is not None:
            weights.append(pack_bias(conv.bias, self.out_blocks * self.block, self.block))
        self.exact = conv.out_channels % self.block != 0 and reads_exact_lanes(self.task, operands)
        anchor: Any = self.task.region.anchor_node
        with Function(self.task, self.layout, operands, weights) as f:
            self.f, self.epilogue = f, Epilogue(f, anchor)
            h, w = conv.axes[1].size, conv.axes[2].size
            self.x = f.alias(f.inputs[conv.x], (conv.batch, self.in_blocks, h, w, self.block))
            self._emit()
        return Lowered(f.func, f.args, self.layout, choice_of(blocking))

    def _emit(self) -> None:
        """The parallel loop over groups of output channels and blocks of tiles."""
        f, plan = self.f, self.blocking
        with f.parallel(plan.groups * plan.tile_blocks) as task:
            group, block = f.unravel(task, [plan.groups, plan.tile_blocks])
            patches = f.scratch((self.form.points, plan.tiles, plan.patch_stride), self.patch_dtype)
            products = f.scratch((self.form.points, plan.tiles, self.columns), self.product_dtype)
            first, larger = f.let(block * plan.fewest + tirx.min(block, plan.larger)), block < plan.larger
            count = f.let(plan.fewest + tirx.if_then_else(larger, 1, 0)) if plan.larger else plan.fewest
            self._transform_patches(patches, first, count)
            each = plan.chunks_per_group
            end = f.let(tirx.min((group + 1) * each, plan.chunks)) if plan.chunks % each else (group + 1) * each
            with f.serial(end, group * each) as chunk:
                multiply = partial(self._multiply, patches, products, chunk)
                sizes = [(larger, partial(multiply, plan.fewest + 1))] if plan.larger else []
                f.branches([*sizes, (True, partial(multiply, plan.fewest))])
                self._transform_products(products, chunk, first, count)

    def _transform_patches(self, patches: Buffer, first: Expr, count: Expr) -> None:
        """V[p, tile, c] of the block's tiles; what lies outside the image is zero and never read."""
        f, (_, h, w), form = self.f, self.conv.axes, self.form
        size = form.height.points, form.width.points
        copy = f.scratch((*size, self.block), self.patch_dtype)
        with f.serial(self.in_blocks) as channel, f.serial(count) as tile:
            n, ty, tx = f.unravel(first + tile, self.grid)
            y, x = f.let(ty * form.height.outputs - h.pad), f.let(tx * form.width.outputs - w.pad)

            def inside() -> None:
                self._patch(patches, tile, channel, lambda i, j, v: self._pixel((n, channel, y + i, x + j, v)))

            def border() -> None:
                self._copy_patch(copy, n, channel, y, x)
                self._patch(patches, tile, channel, lambda i, j, v: copy[i, j, v])

            whole = tirx.all(y >= 0, x >= 0, y + size[0] <= h.size, x + size[1] <= w.size)
            f.branches([(whole, inside), (True, border)])

    def _copy_patch(self, copy: Buffer, n: Expr, channel: Expr, y: Expr, x: Expr) -> None:
        """The patch with zeros for the pixels outside the image."""
        f, (_, h, w) = self.f, self.conv.axes

        def fill(i: Expr, j: Expr, real: bool) -> None:
            with f.lanes(self.block) as v:
                outside = const(0, self.patch_dtype)
                f.store(copy, self._pixel((n, channel, y + i, x + j, v)) if real else outside, [i, j, v])

        with f.serial(self.form.height.points) as i, f.serial(self.form.width.points) as j:
            seen = tirx.all(y + i >= 0, y + i < h.size, x + j >= 0, x + j < w.size)
            f.branches([(seen, partial(fill, i, j, True)), (True, partial(fill, i, j, False))])

    def _pixel(self, place: tuple[Expr, ...]) -> Expr:
        """What is transformed."""
        return self.x[place]

    def _patch(self, patches: Buffer, tile: Expr, channel: Expr, load: Any) -> None:
        """B^T d B of one patch and one block of channels."""
        f, rows, columns = self.f, self.form.height.points, self.form.width.points
        down, across = (side.patch for side in self.sides)
        using = self.patch_arithmetic
        with f.lanes(self.block) as v:
            half = [apply(down, [once(load(i, j, v)) for i in range(rows)], using) for j in range(columns)]
            named = [[once(value) for value in column] for column in half]
            for i in range(rows):
                for j, value in enumerate(apply(across, [named[k][i] for k in range(columns)], using)):
                    f.store(patches, value, [i * columns + j, tile, channel * self.block + v])

    def _multiply(self, patches: Buffer, products: Buffer, chunk: Expr, count: int) -> None:
        """The t*t products of one chunk; the weights of one p stay in the first-level cache over all tiles."""
        f = self.f
        with f.serial(self.form.points) as p:
            for run in runs(Axis(count, count), self.blocking.rows):
                with f.serial(run.count) as i:
                    self._product(patches, products, (chunk, p), run.start + i * run.width, run)

    def _product(self, patches: Buffer, products: Buffer, place: tuple[Expr, Expr], start: Expr, run: Run) -> None:
        """One register tile. Channels are counted exactly: lanes past them are never read."""
        f, channels, (_, p) = self.f, self.conv.channels, place
        parts = max(1, round(channels / PART))
        size = -(-channels // parts)
        parts = -(-channels // size)
        acc = Accumulators(f, run.width, self.blocking.blocks, self.block, parts > 1)
        acc.start(lambda b, v: const(0.0))
        with f.serial(parts) as part, acc.part(), f.serial(part_end(f, part, size, channels), part * size) as c:
            look_ahead(f, f.weights[0], (*place, c), self.ahead)
            for i in range(run.width):
                for b in range(self.blocking.blocks):
                    acc.add(i, b, patches[p, start + i, c], f.weights[0], (*place, c, b))
        for i in range(run.width):
            for b in range(self.blocking.blocks):
                with f.lanes(self.block) as v:
                    f.store(products, acc.total(i, b)[v], [p, start + i, b * self.block + v])

    def _transform_products(self, products: Buffer, chunk: Expr, first: Expr, count: Expr) -> None:
        """A^T M A of the block's tiles, then the epilogue on the pixels that are in the image."""
        f, (_, h, w) = self.f, self.conv.axes
        down, across = self.form.height.outputs, self.form.width.outputs
        with f.serial(count) as tile, f.serial(self.blocking.blocks) as b:
            n, ty, tx = f.unravel(first + tile, self.grid)
            made = f.scratch((down, across, self.block))
            block = f.let(chunk * self.blocking.blocks + b, self.out_blocks)
            with f.lanes(self.block) as v:
                self._unpatch(made, lambda p: products[p, tile, b * self.block + v], self._bias(block, v), v)
            rows = f.let(tirx.min(down, h.out - ty * down)) if h.out % down else down
            columns = f.let(tirx.min(across, w.out - tx * across)) if w.out % across else across

            def write(lanes: int) -> None:
                with f.serial(rows) as i, f.serial(columns) as j, f.lanes(lanes) as v:
                    space = [0, ty * down + i, tx * across + j]  # a volume of one slice, an image, or a sequence
                    index = [n, block * self.block + v, *space[5 - len(self.task.output.shape) :]]
                    self.epilogue.store(index, made[i, j, v])

            if self.exact:
                rest = self.conv.out_channels % self.block
                f.branches([(block < self.out_blocks - 1, partial(write, self.block)), (True, partial(write, rest))])
            else:
                write(self.block)

    def _unpatch(self, made: Buffer, load: Any, bias: Expr | None, v: Expr) -> None:
        rows, columns = self.form.height.points, self.form.width.points
        down, across = (side.output for side in self.sides)
        half = [apply(down, [once(load(i * columns + j)) for i in range(rows)]) for j in range(columns)]
        named = [[once(value) for value in column] for column in half]
        for i in range(self.form.height.outputs):
            for j, value in enumerate(apply(across, [named[k][i] for k in range(columns)])):
                self.f.store(made, value if bias is None else value + bias, [i, j, v])

    def _bias(self, block: Expr, v: Expr) -> Expr | None:
        return None if self.conv.bias is None else self.f.weights[1][block * self.block + v]

    def _pack_weight(self) -> PackedArg:
        """[chunk, p, c, block, lane], zeros in the lanes past the output channels."""
        dims = (self.blocking.chunks, self.form.points, self.conv.channels, self.blocking.blocks, self.block)
        return packed_weight(self.conv.w, self.form, dims, self.task.inputs[self.conv.w].dtype)
