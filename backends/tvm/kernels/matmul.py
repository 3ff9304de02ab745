"""Products of two activations, batched and broadcast, float32.

    y[b, m, n] = epilogue(sum over k: p[b, m, k] q[b, k, n])

A task takes some columns of one product: it packs them from `q` into its own scratch, [k][column], and runs all rows
(or its share of them) past. Both operands are read through their views, so that a transposed or permuted operand costs
nothing but its way through the cache. Linear layers whose weight is computed at run time are such products, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import fx

from ..epilogue import Epilogue, plan_operands, wants_plain
from ..plan import PLAIN, computed_dtype
from ..template import Choice, Lowered, Refused, Task, Wants, distinct
from ..views import broadcast_index, memory_strides, shape_of
from .accumulate import Accumulators, part_end, parts_of
from .emit import Buffer, Expr, Function, const
from .linear import views_to_placeholder
from .rows import Rows
from .tiles import Product, Tile, choose, tiles_to_try
from .window import Axis, Run

Index = Callable[[Sequence[Expr], Sequence[Expr], Expr], list[Expr]]
"""(batch index, row index, last index) -> index into a tensor."""


@dataclass(frozen=True)
class MatMul:
    """`batch` independent products of `rows` (of any rank) by `inner` times `inner` by `columns`."""

    batch: tuple[int, ...]
    rows: tuple[int, ...]
    inner: int
    columns: int
    left: fx.Node
    right: fx.Node
    left_index: Index
    right_index: Callable[[Sequence[Expr], Expr, Expr], list[Expr]]
    out_index: Index
    packed_axis: int
    """The axis of `right` along which the columns run."""


def read_matmul(task: Task) -> MatMul | Refused:
    """Geometry of the region's product, or why this template cannot take it."""
    anchor = task.region.anchor_node
    aten = torch.ops.aten
    if anchor is None or anchor.target not in (aten.matmul.default, aten.linear.default):
        return Refused("not a product of matrices")
    left, right = anchor.all_input_nodes[0], anchor.args[1]
    if any(computed_dtype(v.dtype) != "float32" for v in (*task.inputs, task.output)):
        return Refused("not float32 or bfloat16")
    operands = [a for a in anchor.args if isinstance(a, fx.Node)]
    if not isinstance(right, fx.Node) or not all(views_to_placeholder(task, a) for a in operands):
        return Refused("an operand is computed inside the region")
    p, q, out = shape_of(anchor.args[0]), shape_of(right), shape_of(anchor)
    if len(p) < 2 or len(q) < 2:
        return Refused(f"a vector operand ({len(p)}-d times {len(q)}-d)")
    if anchor.target is aten.linear.default:
        return _linear(left, right, p, out)
    return _transposed(anchor, p, q, out) if out[-1] < 4 < out[-2] else straight(anchor, p, q, out)


def _linear(left: fx.Node, right: fx.Node, p: tuple[int, ...], out: tuple[int, ...]) -> MatMul:
    return MatMul(
        (), out[:-1], p[-1], out[-1], left, right,
        left_index=lambda b, m, k: [*m, k],
        right_index=lambda b, k, n: [n, k],
        out_index=lambda b, m, n: [*m, n],
        packed_axis=0,
    )  # fmt: skip


def straight(anchor: fx.Node, p: tuple[int, ...], q: tuple[int, ...], out: tuple[int, ...]) -> MatMul:
    """Rows of the left operand; where the right one is the same for all products, their rows are joined."""
    joined = prod(q[:-2]) == 1
    left: Any = anchor.args[0]
    right: Any = anchor.args[1]
    return MatMul(
        () if joined else out[:-2], out[:-1] if joined else out[-2:-1], p[-1], out[-1], left, right,
        left_index=lambda b, m, k: broadcast_index([*b, *m, k], p),
        right_index=lambda b, k, n: [0] * (len(q) - 2) + [k, n] if joined else broadcast_index([*b, k, n], q),
        out_index=lambda b, m, n: [*b, *m, n],
        packed_axis=len(q) - 1,
    )  # fmt: skip


def _transposed(anchor: fx.Node, p: tuple[int, ...], q: tuple[int, ...], out: tuple[int, ...]) -> MatMul:
    """A product with few columns, computed as its transpose so that the lanes run along its rows."""
    left: Any = anchor.args[0]
    right: Any = anchor.args[1]
    return MatMul(
        out[:-2], out[-1:], p[-1], out[-2], right, left,
        left_index=lambda b, m, k: broadcast_index([*b, k, *m], q),
        right_index=lambda b, k, n: broadcast_index([*b, n, k], p),
        out_index=lambda b, m, n: [*b, n, *m],
        packed_axis=len(p) - 2,
    )  # fmt: skip


class Matmul:
    """The template: matmul of two activations, linear with a computed weight."""

    name = "matmul"
    step = 1
    """Neighbours along k that are multiplied at once."""

    @property
    def kernel(self) -> type[MatmulKernel]:
        """What multiplies."""
        return MatmulKernel

    def read(self, task: Task) -> MatMul | Refused:
        """Geometry of the region's product, or why this template cannot take it."""
        return read_matmul(task)

    def wants(self, task: Task) -> Wants | Refused:
        """Everything PLAIN."""
        product = self.read(task)
        return product if isinstance(product, Refused) else wants_plain(task)

    def space(self, task: Task) -> Sequence[Choice]:
        """Register tiles, and how many tasks share the rows of one chunk of columns."""
        product = self.read(task)
        assert isinstance(product, MatMul)
        shape = self._shape_of(product, task)
        default = self.kernel(task, product, choose(shape, task.target, task.target.block))
        tiles = tiles_to_try(shape, task.target, default.tile)
        shares = (default.shares, 1, 2, 4, 8)
        return distinct(self.kernel(task, product, tile, n).choice for tile in tiles for n in shares)

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Choose the tile, then write the kernel."""
        product = self.read(task)
        assert isinstance(product, MatMul)
        if choice is None:
            tile = choose(self._shape_of(product, task), task.target, task.target.block)
            return self.kernel(task, product, tile).lower()
        tile = Tile.parse(choice["tile"], task.target.block)
        return self.kernel(task, product, tile, int(choice["shares"])).lower()

    def _shape_of(self, product: MatMul, task: Task) -> Product:
        blocks, steps = -(-product.columns // task.target.block), -(-product.inner // self.step)
        return Product(prod(product.rows), blocks, steps, prod(product.batch))


class MatmulKernel:
    """The batched product of one task, for one tile; `shares` that are not given are chosen."""

    def __init__(self, task: Task, product: MatMul, tile: Tile, shares: int | None = None) -> None:
        """Plan everything; nothing is emitted yet."""
        self.task, self.product, self.tile = task, product, tile
        self.chunks = -(-product.columns // tile.block) // tile.blocks
        rows = prod(product.rows)
        self.rows = Rows.plan(Axis(rows, rows), tile.rows, tile.blocks)
        if shares is None:
            shares = -(-2 * task.target.threads // (prod(product.batch) * self.chunks))
        self.share = -(-self.rows.count // max(1, min(self.rows.count, shares)))
        self.shares = -(-self.rows.count // self.share)
        self.rest = product.columns % tile.block

    @property
    def choice(self) -> Choice:
        """What was chosen."""
        return {"tile": self.tile.name, "shares": self.shares}

    def lower(self) -> Lowered:
        """Emit everything."""
        anchor: Any = self.task.region.anchor_node
        with Function(self.task, PLAIN, plan_operands(self.task, PLAIN, [])) as f:
            self.f, self.epilogue = f, Epilogue(f, anchor)
            self._emit()
        return Lowered(f.func, f.args, PLAIN, self.choice)

    def _emit(self) -> None:
        """The parallel loop over products, chunks of columns and shares of the rows."""
        f, batch = self.f, prod(self.product.batch)
        with f.parallel(batch * self.chunks * self.shares) as task:
            b, chunk, share = f.unravel(task, [batch, self.chunks, self.shares])
            index = f.unravel(b, self.product.batch)
            self._pack(index, chunk)
            with f.serial(self.share) as t:
                number = f.let(share * self.share + t)

                def body() -> None:
                    self.rows.tile(f, number, lambda start, run: self._tile(index, chunk, start, run))

                if self.rows.count % self.share:
                    f.when(number < self.rows.count, body)
                else:
                    body()

    def _on_last(self, chunk: Expr, body: Callable[[bool], None]) -> None:
        """Two versions of `body` where the last column block is narrower."""
        if self.rest:
            self.f.branches([(chunk < self.chunks - 1, lambda: body(False)), (True, lambda: body(True))])
        else:
            body(False)

    def _width(self, block: int, last: bool) -> int:
        return self.rest if last and block == self.tile.blocks - 1 else self.tile.block

    def _pack(self, batch: Sequence[Expr], chunk: Expr) -> None:
        """Copy this chunk's columns into scratch."""
        self.packed: Buffer = self.f.scratch((self.product.inner, self.tile.blocks, self.tile.block))
        self._on_last(chunk, lambda last: self._copy(batch, chunk, last))

    def _copy(self, batch: Sequence[Expr], chunk: Expr, last: bool) -> None:
        """The columns as [k, block, lane], in the order in which they lie in memory."""
        f, product = self.f, self.product
        contiguous = memory_strides(product.right)[product.packed_axis] == 1
        for b in range(self.tile.blocks):
            first = chunk * self.tile.columns + b * self.tile.block
            if contiguous:
                with f.serial(product.inner) as k, f.lanes(self._width(b, last)) as v:
                    f.store(self.packed, self._right(batch, k, first + v), [k, b, v])
            else:
                with f.serial(self._width(b, last)) as v, f.serial(product.inner) as k:
                    f.store(self.packed, self._right(batch, k, first + v), [k, b, v])

    def _right(self, batch: Sequence[Expr], k: Expr, n: Expr) -> Expr:
        return self.epilogue.at(self.product.right, self.product.right_index(batch, k, n))

    def _tile(self, batch: Sequence[Expr], chunk: Expr, start: Expr, run: Run | None) -> None:
        """Accumulate one tile and store it."""
        assert run is not None
        f, product, tile = self.f, self.product, self.tile
        parts, size = parts_of(product.inner)
        acc = Accumulators(f, run.width, tile.blocks, tile.block, parts > 1)
        places = [f.unravel(f.let(start + i, prod(product.rows)), product.rows) for i in range(run.width)]
        acc.start(lambda b, v: const(0.0))
        with f.serial(parts) as part, acc.part():
            end = part_end(f, part, size, product.inner)
            with f.serial(end, part * size) as k:
                for i, place in enumerate(places):
                    scalar = self.epilogue.at(product.left, product.left_index(batch, place, k))
                    for b in range(tile.blocks):
                        acc.add(i, b, scalar, self.packed, (k, b))
        self._on_last(chunk, lambda last: self._store(acc, batch, chunk, places, last))

    def _store(
        self, acc: Accumulators, batch: Sequence[Expr], chunk: Expr, places: list[list[Expr]], last: bool
    ) -> None:
        """Bias, epilogue, store."""
        anchor: Any = self.task.region.anchor_node
        bias = anchor.args[2] if len(anchor.args) > 2 else None
        for i, place in enumerate(places):
            for b in range(self.tile.blocks):
                with self.f.lanes(self._width(b, last)) as v:
                    column = chunk * self.tile.columns + b * self.tile.block + v
                    value = acc.total(i, b)[v]
                    if bias is not None:
                        value = value + self.epilogue.at(bias, [column])
                    self.epilogue.store(self.product.out_index(batch, place, column), value)
