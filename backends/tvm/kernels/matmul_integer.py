"""Products of two activations in codes, batched and broadcast, sums in int32, exact.

    matmul_integer: uint8 times symmetric int8        matmul_words: int16 (a softmax's shares) times int8 or int16

    y[b, m, n] = epilogue(sum over k: p[b, m, k] q[b, k, n]  -  p_zero · sum over k: q[b, k, n])

As the float kernel: a task packs some columns of `q` into its own scratch, here in quads of k (`dot.py`), and runs all
rows, or its share of them, past. What the zero point takes away is summed there, too, by a row of ones. Of 16 bits
there are pairs instead (`dot_words.py`): a word holds four bytes or two of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import fx

from ....ir.ops import integer_name
from ..compat import tirx
from ..epilogue import Epilogue, plan_operands
from ..plan import PLAIN
from ..template import Lowered, Refused, Task
from ..views import memory_strides, shape_of
from .dot import QUAD, Products, products, words
from .dot_words import PAIR, Words, products_of_words
from .emit import Buffer, Expr, Function, const
from .linear import views_to_placeholder
from .matmul import MatMul, Matmul, MatmulKernel, straight
from .pairs import offset_of, place_of, side_by_side
from .requantize import read_head
from .tiles import Tile
from .window import Run

FACTORS = {QUAD: (("uint8",), ("int8",)), PAIR: (("int16",), ("int8", "int16"))}
"""The dtypes that are multiplied by words of so many numbers."""


def read_integer_matmul(task: Task, count: int) -> MatMul | Refused:
    """Geometry of the region's product of codes by words of `count`, or why this template cannot take it."""
    anchor = task.region.anchor_node
    if anchor is None or integer_name(anchor) != "matmul":
        return Refused("not a product of codes")
    operands: Any = anchor.args[:2]
    if not all(views_to_placeholder(task, a) for a in operands):
        return Refused("an operand is computed inside the region")
    dtypes = [str(a.meta["val"].dtype).removeprefix("torch.") for a in operands]
    if any(dtype not in allowed for dtype, allowed in zip(dtypes, FACTORS[count], strict=True)):
        return Refused(f"codes of {', '.join(dtypes)}")
    p, q = (shape_of(a) for a in operands)
    if len(p) < 2 or len(q) < 2:
        return Refused(f"a vector operand ({len(p)}-d times {len(q)}-d)")
    return straight(anchor, p, q, shape_of(anchor))


class MatmulInteger(Matmul):
    """The template: matmul of two activations in codes of 8 bits."""

    name = "matmul_integer"
    step = QUAD

    @property
    def kernel(self) -> type[MatmulKernel]:
        """What multiplies."""
        return _Kernel

    def read(self, task: Task) -> MatMul | Refused:
        """Geometry of the region's product of codes, or why this template cannot take it."""
        return read_integer_matmul(task, self.step)


class MatmulWords(MatmulInteger):
    """The template: matmul of codes of 16 bits."""

    name = "matmul_words"
    step = PAIR

    @property
    def kernel(self) -> type[MatmulKernel]:
        """What multiplies."""
        return _WordsKernel


class _Kernel(MatmulKernel):
    """The batched product of codes."""

    count = QUAD
    """Neighbours along k that make a word."""

    def __init__(self, task: Task, product: MatMul, tile: Tile, shares: int | None = None) -> None:
        """A word of k a step."""
        super().__init__(task, product, tile, shares)
        self.products = self._products(tile.block)
        self.steps = -(-product.inner // self.count)
        self.lie = not product.inner % self.count and side_by_side(task, product.left, self.count)
        anchor: Any = task.region.anchor_node
        self.anchor: fx.Node = anchor
        self.zero = int(anchor.args[2])
        self.head = read_head(task, anchor, PLAIN, tile.block)

    def _products(self, lanes: int) -> Products | Words:
        """How words are multiplied."""
        return products(self.task.target, lanes)

    def lower(self) -> Lowered:
        """Emit everything."""
        head, product, tile = self.head, self.product, self.tile
        weights = head.pack(self.chunks * tile.columns) if head else []
        with Function(self.task, PLAIN, plan_operands(self.task, PLAIN, head.taken if head else []), weights) as f:
            self.f, self.epilogue = f, Epilogue(f, head.node if head else self.anchor)
            if self.lie:
                position, _ = place_of(self.task, product.left, [0] * len(shape_of(product.left)))
                self.words = words(f.inputs[position], (prod(self.task.inputs[position].shape) // self.count,))
            self._emit()
        return Lowered(f.func, f.args, PLAIN, self.choice)

    def _pack(self, batch: Sequence[Expr], chunk: Expr) -> None:
        """This chunk's columns as [word, block, *products], and what each column's sums start from."""
        f, tile = self.f, self.tile
        ones = tirx.const(sum(1 << 32 // self.count * j for j in range(self.count)), "int32")
        self.held = f.scratch((self.steps, tile.blocks, *self.products.dims), self.products.dtype)
        self._on_last(chunk, lambda last: self._copy(batch, chunk, last))
        if not self.zero:
            return
        self.starts = f.scratch((tile.blocks, tile.block), "int32")
        for b in range(tile.blocks):
            total = f.vector(tile.block, "int32")
            with f.lanes(tile.block) as v:
                f.store(total, const(0, "int32"), [v])
            with f.serial(self.steps) as k:
                self.products.add(total, ones, self.held, (k, b))
            with f.lanes(tile.block) as v:
                taken = tirx.Cast("int64", total[v]) * tirx.const(-self.zero, "int64")  # as `dot.wrapped`
                f.store(self.starts, tirx.Cast("int32", taken), [b, v])

    def _copy(self, batch: Sequence[Expr], chunk: Expr, last: bool) -> None:
        """In the order in which the columns lie in memory; zeros past the last k."""
        f, product = self.f, self.product
        along = memory_strides(product.right)[product.packed_axis] == 1
        whole, rest = divmod(product.inner, self.count)
        for b in range(self.tile.blocks):
            first, width = chunk * self.tile.columns + b * self.tile.block, self._width(b, last)
            if along:
                with f.serial(whole) as k, f.lanes(width) as v:
                    self._word(batch, k, self.count, first, b, v)
            else:
                with f.serial(width) as v, f.serial(whole) as k:
                    self._word(batch, k, self.count, first, b, v)
            if rest:
                with (f.lanes if along else f.serial)(width) as v:
                    self._word(batch, whole, rest, first, b, v)

    def _word(self, batch: Sequence[Expr], k: Expr, kept: int, first: Expr, b: int, v: Expr) -> None:
        """The neighbours along k of one column."""
        right, index = self.product.right, self.product.right_index
        several = [self.epilogue.at(right, index(batch, self.count * k + j, first + v)) for j in range(kept)]
        several += [tirx.const(0, "int8")] * (self.count - kept)
        for place, value in self.products.parts(several):
            self.f.store(self.held, value, [k, b, *place, v])

    def _tile(self, batch: Sequence[Expr], chunk: Expr, start: Expr, run: Run | None) -> None:
        """Accumulate one tile and store it."""
        assert run is not None
        f, product, tile = self.f, self.product, self.tile
        sums = [[f.vector(tile.block, "int32") for _ in range(tile.blocks)] for _ in range(run.width)]
        places = [f.unravel(f.let(start + i, prod(product.rows)), product.rows) for i in range(run.width)]
        for row in sums:
            for b, vector in enumerate(row):
                with f.lanes(tile.block) as v:
                    f.store(vector, self.starts[b, v] if self.zero else const(0, "int32"), [v])
        with f.serial(product.inner // self.count) as k:
            self._step(sums, batch, places, k)
        if product.inner % self.count:
            self._step(sums, batch, places, self.steps - 1)
        self._on_last(chunk, lambda last: self._finish(sums, batch, chunk, places, last))

    def _step(self, sums: list[list[Buffer]], batch: Sequence[Expr], places: list[list[Expr]], k: Expr) -> None:
        """One word of every row."""
        for row, place in zip(sums, places, strict=True):
            word = self._left(batch, place, k)
            for b, vector in enumerate(row):
                self.products.add(vector, word, self.held, (k, b))

    def _left(self, batch: Sequence[Expr], place: list[Expr], k: Expr) -> Expr:
        """p[count · k] and what follows it; past the end, where columns are zero, nothing is read."""
        left, index, count = self.product.left, self.product.left_index, self.count
        if self.lie:
            offset: Any = offset_of(self.task, left, index(batch, place, count * k))
            return self.words[self.f.simplify(tirx.floordiv(offset, count))]
        kept, bits = min(count, self.product.inner - count * k) if isinstance(k, int) else count, 32 // count
        numbers = (self.epilogue.at(left, index(batch, place, count * k + j)) for j in range(kept))
        each = [tirx.Cast(f"uint{bits}", number) for number in numbers]
        whole: Expr = tirx.Cast("uint32", each[0])
        for j, number in enumerate(each[1:], 1):
            shifted = tirx.shift_left(tirx.Cast("uint32", number), tirx.const(bits * j, "uint32"))
            whole = tirx.bitwise_or(whole, shifted)
        return self.f.let(tirx.reinterpret("int32", whole))

    def _finish(
        self, sums: list[list[Buffer]], batch: Sequence[Expr], chunk: Expr, places: list[list[Expr]], last: bool
    ) -> None:
        """Epilogue and store."""
        f, tile = self.f, self.tile
        for row, place in zip(sums, places, strict=True):
            for b, vector in enumerate(row):
                column = chunk * tile.columns + b * tile.block
                if self.head is not None:
                    self.head.apply(f, vector, tile.block, column, self.product.out_index(batch, place, column), 0)
                with f.lanes(self._width(b, last)) as v:
                    value = vector[v] if self.head is None else self.head.value(vector, v)
                    self.epilogue.store(self.product.out_index(batch, place, column + v), value)


class _WordsKernel(_Kernel):
    """The same with two k a step."""

    count = PAIR

    def _products(self, lanes: int) -> Words:
        return products_of_words(self.task.target, lanes)
