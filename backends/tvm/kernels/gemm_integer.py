"""Linear layers of codes as a blocked matrix product with constant weights: uint8 times int8, sums in int32, exact.

    y[m, n] = epilogue(b[n] + sum over k:  (x[view(m, k)] - x_zero) · w[n, k])

As the float kernel, four neighbours along k a step (`dot.py`): weights are packed [chunk of columns][quad of k][block
of the chunk][lane], and x is read through its views, one quad at a time where four neighbours lie side by side, byte by
byte elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import fx

from ....ir.ops import integer_name
from ..compat import tirx
from ..epilogue import wants_plain
from ..plan import PLAIN
from ..template import Choice, Lowered, Packed, Refused, Task, Wants, distinct
from ..views import shape_of
from .ahead import AHEAD, look_ahead
from .dot import QUAD, products, words
from .emit import Buffer, Expr, Function, PackedArg
from .gemm import views_to_placeholder
from .integer_sums import IntegerSums
from .pairs import offset_of, place_of, side_by_side
from .rows import Rows
from .tiles import L2_BYTES, ORDERS, Product, Tile, choose, tiles_to_try
from .window import Axis, Run


@dataclass(frozen=True)
class IntegerLinear:
    """A linear layer's geometry: `rows` by `inner` times `inner` by `columns`."""

    rows: int
    inner: int
    columns: int
    x: fx.Node
    x_zero: int
    w: int
    bias: int | None


def read_integer_linear(task: Task) -> IntegerLinear | Refused:
    """Geometry of the region's linear layer of uint8 codes, or why this template cannot take it."""
    anchor = task.region.anchor_node
    if anchor is None or integer_name(anchor) != "linear":
        return Refused("not a linear layer of codes")
    args: Any = anchor.args
    holders = task.region.placeholders
    places = [holders.index(a) if a in holders else -1 for a in args[1:3] if a is not None]
    if any(p not in task.constants for p in places):
        return Refused("its weight or bias is not a constant")
    if not views_to_placeholder(task, args[0]):
        return Refused("its input is computed inside the region")
    dtypes = [str(a.meta["val"].dtype).removeprefix("torch.") for a in args[:3] if a is not None]
    if dtypes[:2] != ["uint8", "int8"] or dtypes[2:] not in ([], ["int32"]):
        return Refused(f"codes of {', '.join(dtypes)}")
    shape, out = shape_of(args[0]), shape_of(anchor)
    bias = places[1] if len(places) > 1 else None
    return IntegerLinear(prod(out[:-1]), shape[-1], out[-1], args[0], args[3], places[0], bias)


class GemmInteger:
    """The template: linear layers of codes with constant weights."""

    name = "gemm_integer"

    def wants(self, task: Task) -> Wants | Refused:
        """Everything PLAIN."""
        linear = read_integer_linear(task)
        return linear if isinstance(linear, Refused) else wants_plain(task)

    def space(self, task: Task) -> Sequence[Choice]:
        """Register tiles, what the parallel loop walks along, and looking ahead."""
        linear = read_integer_linear(task)
        assert isinstance(linear, IntegerLinear)
        default = _Kernel(task, linear, default_tile(linear, task))
        orders = ORDERS if default.weights_first else ORDERS[::-1]
        tiles = tiles_to_try(_product_of(linear, task), task.target, default.tile)
        distances = (default.ahead, 0) if default.ahead else (0,)
        return distinct(
            _Kernel(task, linear, tile, order, ahead).choice
            for ahead in distances
            for tile in tiles
            for order in orders
        )

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Choose the tile, then write the kernel."""
        linear = read_integer_linear(task)
        assert isinstance(linear, IntegerLinear)
        if choice is None:
            return _Kernel(task, linear, default_tile(linear, task)).lower()
        tile = Tile.parse(choice["tile"], task.target.block)
        return _Kernel(task, linear, tile, str(choice["order"]), int(choice["ahead"])).lower()


def default_tile(linear: IntegerLinear, task: Task) -> Tile:
    """A tile that is good untuned."""
    return choose(_product_of(linear, task), task.target, task.target.block)


def _product_of(linear: IntegerLinear, task: Task) -> Product:
    blocks = -(-linear.columns // task.target.block)
    return Product(linear.rows, blocks, -(-linear.inner // QUAD), 1, True, linear.inner)


class _Kernel:
    """The matrix product of one task, for one tile; what is not given beside the tile is chosen."""

    def __init__(
        self, task: Task, linear: IntegerLinear, tile: Tile, order: str | None = None, ahead: int | None = None
    ) -> None:
        """`order` is one of ORDERS; weights are asked for `ahead` cache lines before they are read."""
        self.task, self.linear, self.tile = task, linear, tile
        self.products = products(task.target, tile.block)
        self.chunks = -(-linear.columns // tile.block) // tile.blocks
        self.rows = Rows.plan(Axis(linear.rows, linear.rows), tile.rows, tile.blocks)
        self.steps = -(-linear.inner // QUAD)
        self.side_by_side = not linear.inner % QUAD and side_by_side(task, linear.x, QUAD)
        self.weight_bytes = linear.inner * linear.columns
        self.weights_first = self._keep_weights() if order is None else order == ORDERS[0]
        self.ahead = self._distance() if ahead is None else ahead

    @property
    def choice(self) -> Choice:
        """What was chosen."""
        return {"tile": self.tile.name, "order": ORDERS[not self.weights_first], "ahead": self.ahead}

    def _keep_weights(self) -> bool:
        """Whether each chunk of weights is read once and x once a chunk, or the other way round."""
        x = self.linear.inner * self.linear.rows
        if self.rows.count >= 4 * self.task.target.threads and self.weight_bytes <= 8 * L2_BYTES:
            return False
        chunk_first = self.weight_bytes + x * (self.chunks if x > L2_BYTES else 1)
        row_first = x + self.weight_bytes * (self.rows.count if self.weight_bytes > L2_BYTES else 1)
        return chunk_first <= row_first

    def _distance(self) -> int:
        """A single row reads its weights as fast as memory gives them; there a longer way ahead is worth less."""
        if self.weight_bytes <= L2_BYTES:
            return 0
        return AHEAD if self.linear.rows > 1 else AHEAD // 4

    def lower(self) -> Lowered:
        """Emit everything."""
        linear, tile = self.linear, self.tile
        self.sums = IntegerSums(self.task, PLAIN, tile.block, self.chunks * tile.columns, linear.w, linear.bias)
        operands = self.sums.operands()
        weights = [self._pack_weight(), *self.sums.pack(linear.x_zero, (), (), "")]
        with Function(self.task, PLAIN, operands, weights) as f:
            self.f = f
            self.sums.open(f)
            if self.side_by_side:
                position, _ = place_of(self.task, linear.x, [0] * len(shape_of(linear.x)))
                self.quads = words(f.inputs[position], (prod(self.task.inputs[position].shape) // QUAD,))
            parts = [self.chunks, self.rows.count]
            order = [0, 1] if self.weights_first else [1, 0]
            with f.parallel(prod(parts)) as task:
                where: list[Expr] = [0, 0]
                for axis, index in zip(order, f.unravel(task, [parts[a] for a in order]), strict=True):
                    where[axis] = index
                self.rows.tile(f, where[1], lambda start, run: self._tile(where[0], start, run))
        return Lowered(f.func, f.args, PLAIN, self.choice)

    def _tile(self, chunk: Expr, start: Expr, run: Run | None) -> None:
        """Accumulate one tile and store it."""
        assert run is not None
        f, tile = self.f, self.tile
        sums = [[f.vector(tile.block, "int32") for _ in range(tile.blocks)] for _ in range(run.width)]
        lead = shape_of(self.linear.x)[:-1]
        places = [f.unravel(f.let(start + i, self.linear.rows), lead) for i in range(run.width)]
        for row in sums:
            for b, vector in enumerate(row):
                self.sums.start(vector, chunk * tile.columns + b * tile.block, ())
        with f.serial(self.linear.inner // QUAD) as k:
            look_ahead(f, f.weights[0], (chunk, k), self.ahead)
            self._step(sums, places, chunk, k)
        if self.linear.inner % QUAD:
            self._step(sums, places, chunk, self.steps - 1)
        self._finish(sums, chunk, places)

    def _step(self, sums: list[list[Buffer]], places: list[list[Expr]], chunk: Expr, k: Expr) -> None:
        """One quad of every row."""
        for row, place in zip(sums, places, strict=True):
            quad = self._quad(place, k)
            for b, vector in enumerate(row):
                self.products.add(vector, quad, self.f.weights[0], (chunk, k, b))

    def _quad(self, place: list[Expr], k: Expr) -> Expr:
        """x[QUAD · k] and what follows it; past the end, where weights are zero, nothing is read."""
        x = self.linear.x
        if self.side_by_side:
            offset: Any = offset_of(self.task, x, [*place, QUAD * k])
            return self.quads[self.f.simplify(tirx.floordiv(offset, QUAD))]
        kept = min(QUAD, self.linear.inner - QUAD * k) if isinstance(k, int) else QUAD
        each = [tirx.Cast("uint32", self.sums.epilogue.at(x, [*place, QUAD * k + j])) for j in range(kept)]
        whole = each[0]
        for j, byte in enumerate(each[1:], 1):
            whole = tirx.bitwise_or(whole, tirx.shift_left(byte, tirx.const(8 * j, "uint32")))
        return self.f.let(tirx.reinterpret("int32", whole))

    def _finish(self, sums: list[list[Buffer]], chunk: Expr, places: list[list[Expr]]) -> None:
        """Epilogue and store; the last column block may be narrower."""
        rest, tile = self.linear.columns % self.tile.block, self.tile

        def write(last: bool) -> None:
            for row, place in zip(sums, places, strict=True):
                for b, vector in enumerate(row):
                    kept = rest if last and b == tile.blocks - 1 else tile.block
                    self.sums.store(vector, kept, place, chunk * tile.columns + b * tile.block, [])

        if rest:
            self.f.branches([(chunk < self.chunks - 1, lambda: write(False)), (True, lambda: write(True))])
        else:
            write(False)

    def _pack_weight(self) -> PackedArg:
        """[chunk, quad, block, *products], zeros past the columns and past the last k."""
        tile, steps, ways = self.tile, self.steps, self.products
        dims = (self.chunks, steps, tile.blocks, *ways.dims)

        def pack(weight: np.ndarray) -> np.ndarray:
            padded = np.zeros((self.chunks * tile.columns, steps * QUAD), np.int8)
            padded[: weight.shape[0], : weight.shape[1]] = weight
            split = padded.reshape(self.chunks, tile.blocks, tile.block, steps, QUAD)
            return ways.pack(split.transpose(0, 3, 1, 4, 2))

        key = f"Nk{tile.blocks}n{tile.block}{ways.name}"
        return PackedArg(Packed(self.linear.w, key, pack), dims, ways.dtype)
