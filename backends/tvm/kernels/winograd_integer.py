"""Winograd's convolution of codes, exact: uint8 times int8 in blocked channels, F(4x4, 3x3) and its kin.

    y[tile] = epilogue(b + unscale(A^T [ sum over c:  U[p, c, o] * V[p, tile, c] ] A))       V = B^T (x - x_zero) B

It walks as the float kernel does, with matrices of whole numbers (`winograd_whole.py`): transformed codes and weights
are int16, two channels are multiplied in an instruction (`dot_words.py`), sums wrap, and the same integers come out
as of direct sums. What must be known is that they are small: the weight's placeholder says how many bits its sums have
(`passes/group/shifts.py`). A pair of int16 takes as long as four bytes, so that a fourth of the multiplications is half
of the instructions where a CPU has dot products of bytes, and a fourth where it has none. Padding is a difference of 0.

Measured on Zen 4, one thread, microseconds of CPU time with weights in the cache, requantized to uint8:

                 direct    F(4,3)    F(2,3)
    56^2 x  64    508       335       551
    28^2 x 128    493       300       497
    14^2 x 256    469       367       479
    35^2 x  96    440       290       475
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..compat import tirx
from ..epilogue import wants_blocked
from ..ops.lanes import once
from ..template import Choice, Lowered, Refused, Task, Wants, distinct
from .ahead import look_ahead
from .conv import Conv, read_integer_conv
from .dot import words, wrapped
from .dot_words import PAIR, products_of_words
from .emit import Buffer, Expr, Function, const
from .integer_sums import IntegerSums
from .window import Run
from .winograd import WinogradKernel, choice_of, cut_of
from .winograd_cost import Blocking, Numbers, blocking_of, blockings_to_try, pays, plan_blocking, suits
from .winograd_points import apply, form_of
from .winograd_whole import Short, Wrapping, fits, unscale, whole
from .winograd_whole_weights import packed_codes


class WinogradInteger:
    """The template: dense convolutions of codes of stride 1 whose sums are known to be small."""

    def __init__(self, m: int, anywhere: bool = False) -> None:
        """Tiles with sides of `m` pixels, 4 or 2; `anywhere`: also where direct convolution should be faster."""
        assert m in (2, 4), m
        self.m = m
        self.name = f"winograd_integer{m}"
        self._anywhere = anywhere

    def wants(self, task: Task) -> Wants | Refused:
        """Blocked input and output."""
        conv = read_integer_conv(task)
        if isinstance(conv, Refused):
            return conv
        if reason := suits(conv, self.m, whole=True) or self._cannot(task, conv):
            return Refused(reason)
        if not self._anywhere and not pays(conv, task.target, self.m, numbers_of(task)):
            return Refused("direct convolution should be faster")
        return wants_blocked(task, {conv.x: (f"c{task.target.block}",)})

    def _cannot(self, task: Task, conv: Conv) -> str | None:
        """Why whole numbers of 16 and 32 bits are not enough."""
        form = form_of((conv.axes[1].kernel, conv.axes[2].kernel), self.m, whole=True)
        assert form is not None
        if products_of_words(task.target, task.target.block).way == "each":
            return "this CPU has no products of pairs of int16"
        if not fits(form):
            return "transformed weights or codes are no int16"
        bits = task.region.placeholders[conv.w].meta.get("sum_bits")
        if bits is None or bits > unscale(form).bits:
            return f"sums may have {bits or 'any number of'} bits, {unscale(form).bits} are what is left of 32"
        return None

    def space(self, task: Task) -> Sequence[Choice]:
        """In how many blocks the tiles are cut, register tiles, and how many tasks share a block's output channels."""
        conv = read_integer_conv(task)
        assert isinstance(conv, Conv)
        tried = blockings_to_try(conv, self.m, task.target, numbers_of(task))
        return distinct(choice_of(blocking) for blocking in tried)

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Choose the blocks, then write the kernel."""
        conv = read_integer_conv(task)
        assert isinstance(conv, Conv)
        numbers = numbers_of(task)
        if choice is None:
            return IntegerKernel(task, conv, plan_blocking(conv, self.m, task.target, numbers)).lower()
        return IntegerKernel(task, conv, blocking_of(conv, self.m, task.target, cut_of(choice), numbers)).lower()


def numbers_of(task: Task) -> Numbers:
    """What the instructions for pairs cost, beside those of direct convolution: four bytes in one, or in four."""
    dots = products_of_words(task.target, task.target.block).way == "add"
    return Numbers(True, PAIR, 1 if dots else 2, 2, direct=0.25 if dots else 1.0, direct_bytes=1.0, spread=0.7)


class IntegerKernel(WinogradKernel):
    """The kernel of one task, for one blocking."""

    patch_dtype, product_dtype = "int16", "int32"
    patch_arithmetic = Short()

    def __init__(self, task: Task, conv: Conv, blocking: Blocking) -> None:
        """As for float."""
        super().__init__(task, conv, blocking)
        self.pairs = -(-conv.channels // PAIR)
        self.products = products_of_words(task.target, self.block)
        self.outputs = whole(self.form.height).output, whole(self.form.width).output
        self.unscale = unscale(self.form)

    def lower(self) -> Lowered:
        """Emit everything."""
        conv, blocking = self.conv, self.blocking
        self.sums = IntegerSums(self.task, self.layout, self.block, self.out_blocks * self.block, conv.w, conv.bias)
        operands = self.sums.operands()
        self.exact = self.sums.ends_inside(operands)
        dims = (blocking.chunks, self.form.points, self.pairs, blocking.blocks, self.block)
        weights = [packed_codes(conv.w, self.form, conv.channels, dims), *self.sums.pack(0, (), (), "")]
        with Function(self.task, self.layout, operands, weights) as f:
            self.f = f
            self.sums.open(f)
            h, w = conv.axes[1].size, conv.axes[2].size
            self.x = f.alias(f.inputs[conv.x], (conv.batch, self.in_blocks, h, w, self.block))
            self._emit()
        return Lowered(f.func, f.args, self.layout, choice_of(blocking))

    def _pixel(self, place: tuple[Expr, ...]) -> Expr:
        """The code's distance from the zero point."""
        code = tirx.Cast("int16", self.x[place])
        return code - const(self.conv.x_zero, "int16") if self.conv.x_zero else code

    def _product(self, patches: Buffer, products: Buffer, place: tuple[Expr, Expr], start: Expr, run: Run) -> None:
        """One register tile. The second channel of an odd last pair has a weight of zero."""
        f, blocks, (_, p) = self.f, self.blocking.blocks, place
        sums = [[f.vector(self.block, "int32") for _ in range(blocks)] for _ in range(run.width)]
        for row in sums:
            for vector in row:
                with f.lanes(self.block) as v:
                    f.store(vector, const(0, "int32"), [v])
        read = words(patches, (self.form.points, self.blocking.tiles, self.blocking.patch_stride // PAIR))
        with f.serial(self.pairs) as c:
            look_ahead(f, f.weights[0], (*place, c), self.ahead)
            for i, row in enumerate(sums):
                for b, vector in enumerate(row):
                    self.products.add(vector, read[p, start + i, c], f.weights[0], (*place, c, b))
        for i, row in enumerate(sums):
            for b, vector in enumerate(row):
                with f.lanes(self.block) as v:
                    f.store(products, vector[v], [p, start + i, b * self.block + v])

    def _transform_products(self, products: Buffer, chunk: Expr, first: Expr, count: Expr) -> None:
        """A^T M A of the block's tiles, without the multiple, then the epilogue on the pixels that are in the image."""
        f, (_, h, w) = self.f, self.conv.axes
        down, across = self.form.height.outputs, self.form.width.outputs
        with f.serial(count) as tile, f.serial(self.blocking.blocks) as b:
            n, ty, tx = f.unravel(first + tile, self.grid)
            made = f.scratch((down, across, self.block), "int32")
            block = f.let(chunk * self.blocking.blocks + b, self.out_blocks)
            with f.lanes(self.block) as v:
                self._unpatch(made, lambda p: products[p, tile, b * self.block + v], None, v)
            rows = f.let(tirx.min(down, h.out - ty * down)) if h.out % down else down

            def write(columns: int, lanes: int) -> None:
                with f.serial(rows) as i:
                    self._write_row(made, i, (n, block * self.block, ty * down + i, tx * across), columns, lanes)

            def cut(lanes: int) -> None:
                last = [(tx < w.out // across, partial(write, across, lanes))] if w.out % across else []
                f.branches([*last, (True, partial(write, w.out % across or across, lanes))])

            rest = self.conv.out_channels % self.block if self.exact else 0
            inner = [(block < self.out_blocks - 1, partial(cut, self.block))] if rest else []
            f.branches([*inner, (True, partial(cut, rest or self.block))])

    def _write_row(self, made: Buffer, i: Expr, at: tuple[Expr, ...], columns: int, lanes: int) -> None:
        """The epilogue of one row of a tile."""
        f, (n, channel, y, x) = self.f, at
        row = [f.vector(self.block, "int32") for _ in range(columns)]
        for j, vector in enumerate(row):
            self.sums.start(vector, channel, ())
            with f.lanes(self.block) as v:
                f.store(vector, wrapped(vector[v], made[i, j, v]), [v])
        rank = len(self.task.output.shape)
        self.sums.store_row(row, lanes, [n], channel, lambda j: [0, y, x + j][5 - rank :])

    def _unpatch(self, made: Buffer, load: Any, bias: Expr | None, v: Expr) -> None:
        """The sums themselves: all wraps until the last shift."""
        rows, columns, using = self.form.height.points, self.form.width.points, Wrapping()
        down, across = self.outputs
        half = [apply(down, [once(load(i * columns + j)) for i in range(rows)], using) for j in range(columns)]
        named = [[once(value) for value in column] for column in half]
        for i in range(self.form.height.outputs):
            for j, value in enumerate(apply(across, [named[k][i] for k in range(columns)], using)):
                scaled = using.scale(value, self.unscale.inverse) if self.unscale.inverse != 1 else value
                self.f.store(made, tirx.shift_right(scaled, const(self.unscale.shift, "int32")), [i, j, v])
