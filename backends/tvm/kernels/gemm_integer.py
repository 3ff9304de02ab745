"""Linear layers of codes as a blocked matrix product with constant weights: uint8 times int8, sums in int32, exact.

    y[m, n] = epilogue(b[n] + sum over k:  (x[view(m, k)] - x_zero) · w[n, k])

As the float kernel, four neighbours along k a step (`dot.py`): weights are packed [chunk of columns][quad of k][block
of the chunk][lane], and x is read through its views, one quad at a time where four neighbours lie side by side, byte by
byte elsewhere.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ....ir.ops import integer_name
from ..compat import tirx
from ..plan import PLAIN
from ..template import Lowered, Packed, Refused, Task
from ..views import shape_of
from .ahead import look_ahead
from .dot import QUAD, products, words
from .emit import Buffer, Expr, Function, PackedArg
from .integer_sums import IntegerSums
from .linear import Linear, LinearKernel, LinearTemplate, views_to_placeholder
from .pairs import offset_of, place_of, side_by_side
from .tiles import Product, Tile
from .window import Run


def read_integer_linear(task: Task) -> Linear | Refused:
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
    return Linear(prod(out[:-1]), shape[-1], out[-1], args[0], places[0], bias, 1, args[3])


class GemmInteger(LinearTemplate):
    """The template: linear layers of codes with constant weights."""

    name = "gemm_integer"

    @property
    def kernel(self) -> type[LinearKernel]:
        """Quads of codes."""
        return _Kernel

    def read(self, task: Task) -> Linear | Refused:
        """Geometry of the region's linear layer, or why this template cannot take it."""
        return read_integer_linear(task)

    def product(self, linear: Linear, task: Task) -> Product:
        """A step is a quad of k."""
        blocks = -(-linear.columns // task.target.block)
        return Product(linear.rows, blocks, -(-linear.inner // QUAD), 1, True, linear.inner)


class _Kernel(LinearKernel):
    """The matrix product of codes."""

    def __init__(
        self, task: Task, linear: Linear, tile: Tile, order: str | None = None, ahead: int | None = None
    ) -> None:
        """Four k a step."""
        super().__init__(task, linear, tile, order, ahead)
        self.products = products(task.target, tile.block)
        self.steps = -(-linear.inner // QUAD)
        self.side_by_side = not linear.inner % QUAD and side_by_side(task, linear.x, QUAD)

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
            self._emit()
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
        tile = self.tile

        def write(last: bool) -> None:
            for row, place in zip(sums, places, strict=True):
                for b, vector in enumerate(row):
                    column = chunk * tile.columns + b * tile.block
                    self.sums.store(vector, self._width(b, last), place, column, [])

        self._on_last(chunk, write)

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
