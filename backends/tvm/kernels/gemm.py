"""Linear layers as a blocked matrix product with constant weights, float32 or bfloat16.

    y[m, n] = epilogue(b[n] + sum over k:  x[view(m, k)] * w[n, k])

The weights are packed [chunk of columns][k][block of the chunk][lane]: each core reads its chunks once, as one
stream, and keeps a chunk in its second-level cache while the rows of x go by. x is read one scalar at a time, so
that any view of it (a permuted head, a shifted window) costs no copy. A single row works alike: then the stream of
weights is all there is. Where the CPU multiplies pairs of bfloat16, a step of the sum is two neighbours of x and w.
"""

from __future__ import annotations

from contextlib import nullcontext
from math import prod
from typing import Any

import numpy as np
import torch

from ..epilogue import Epilogue, plan_operands
from ..plan import PLAIN, computed_dtype, itemsize
from ..template import Lowered, Packed, Refused, Task
from ..views import shape_of
from .accumulate import Accumulators, part_end, parts_of
from .ahead import look_ahead
from .bfloat16 import dot_products, pack_pairs
from .conv import pack_bias
from .emit import Buffer, Expr, Function, PackedArg, const
from .linear import Linear, LinearKernel, LinearTemplate, views_to_placeholder
from .pairs import Pairs, in_pairs
from .tiles import L2_BYTES, Product, Tile
from .window import Run


def read_linear(task: Task) -> Linear | Refused:
    """Geometry of the region's linear layer, or why this template cannot take it."""
    anchor = task.region.anchor_node
    if anchor is None or anchor.target is not torch.ops.aten.linear.default:
        return Refused("not a linear layer")
    args: tuple[Any, ...] = anchor.args
    weight, *rest = (_constant(task, a) for a in args[1:3] if a is not None)
    if weight is None or None in rest:
        return Refused("its weight or bias is not a constant")
    if any(computed_dtype(v.dtype) != "float32" for v in (*task.inputs, task.output)):
        return Refused("not float32 or bfloat16")
    if not views_to_placeholder(task, args[0]):
        return Refused("its input is computed inside the region")
    shape, out = shape_of(args[0]), shape_of(anchor)
    bias = rest[0] if rest else None
    return Linear(prod(out[:-1]), shape[-1], out[-1], args[0], weight, bias, itemsize(task.output.dtype))


def _constant(task: Task, node: Any) -> int | None:
    holders = task.region.placeholders
    position = holders.index(node) if node in holders else None
    return position if position in task.constants else None


class Gemm(LinearTemplate):
    """The template: linear layers with constant weights."""

    name = "gemm"

    @property
    def kernel(self) -> type[LinearKernel]:
        """Floats, or pairs of bfloat16."""
        return _Kernel

    def read(self, task: Task) -> Linear | Refused:
        """Geometry of the region's linear layer, or why this template cannot take it."""
        return read_linear(task)

    def product(self, linear: Linear, task: Task) -> Product:
        """Weights of many rows that do not stay in the cache are waited for."""
        blocks = -(-linear.columns // task.target.block)
        wait = _WAIT if linear.rows > 1 and linear.weight_bytes > L2_BYTES // 4 else 0.0
        depth = linear.inner * linear.itemsize // 4
        return Product(linear.rows, blocks, depth, 1, True, linear.inner * linear.itemsize, wait)


_WAIT = 0.25
"""Cycles that a step waits for a vector of weights that do not stay in the cache.

Measured with weights from memory, 197 rows, 384 to 1152 columns: 213 GFLOP/s in tiles of 8x2, 220 in 16x1.
"""


class _Kernel(LinearKernel):
    """The matrix product of floats."""

    def __init__(
        self, task: Task, linear: Linear, tile: Tile, order: str | None = None, ahead: int | None = None
    ) -> None:
        """Two k a step where the CPU multiplies pairs."""
        super().__init__(task, linear, tile, order, ahead)
        self.pairs = in_pairs(task, linear.x)
        self.steps = linear.inner // 2 if self.pairs else linear.inner

    def lower(self) -> Lowered:
        """Emit everything."""
        linear, tile = self.linear, self.tile
        operands = plan_operands(self.task, PLAIN, [linear.w] if linear.bias is None else [linear.w, linear.bias])
        weights = [self._pack_weight()]
        if linear.bias is not None:
            weights.append(pack_bias(linear.bias, self.chunks * tile.columns, tile.block))
        anchor: Any = self.task.region.anchor_node
        dots = dot_products(tile.block) if self.pairs else nullcontext()
        with Function(self.task, PLAIN, operands, weights) as f, dots:
            self.f, self.epilogue = f, Epilogue(f, anchor)
            self.paired = Pairs(f, [linear.x] if self.pairs else [])
            self.flat = self._flat_input()
            self._emit()
        return Lowered(f.func, f.args, PLAIN, self.choice)

    def _flat_input(self) -> Buffer | None:
        """x as [row, k], where no view stands between."""
        holders = self.task.region.placeholders
        if self.linear.x not in holders or self.pairs:
            return None
        return self.f.alias(self.f.inputs[holders.index(self.linear.x)], (self.linear.rows, self.linear.inner))

    def _tile(self, chunk: Expr, start: Expr, run: Run | None) -> None:
        """Accumulate one tile and store it."""
        assert run is not None
        f, tile = self.f, self.tile
        parts, size = (1, self.steps) if self.pairs else parts_of(self.steps)
        acc = Accumulators(f, run.width, tile.blocks, tile.block, parts > 1)
        lead = shape_of(self.linear.x)[:-1]
        places = [f.unravel(f.let(start + i, self.linear.rows), lead) for i in range(run.width)]
        acc.start(lambda b, v: self._initial(chunk, b, v))
        with (
            f.serial(parts) as part,
            acc.part(),
            f.serial(part_end(f, part, size, self.steps), part * size) as k,
        ):
            look_ahead(f, f.weights[0], (chunk, k), self.ahead)
            for i, place in enumerate(places):
                for b in range(tile.blocks):
                    x = self._x(start + i, place, k)
                    (acc.add_pair if self.pairs else acc.add)(i, b, x, f.weights[0], (chunk, k, b))
        self._finish(acc, chunk, places)

    def _x(self, row: Expr, place: list[Expr], k: Expr) -> Expr:
        if self.pairs:
            return self.paired.at(self.linear.x, place, k)
        return self.flat[row, k] if self.flat is not None else self.epilogue.at(self.linear.x, [*place, k])

    def _initial(self, chunk: Expr, b: int, v: Expr) -> Expr:
        if self.linear.bias is None:
            return const(0.0)
        return self.f.weights[1][chunk * self.tile.columns + b * self.tile.block + v]

    def _finish(self, acc: Accumulators, chunk: Expr, places: list[list[Expr]]) -> None:
        """Epilogue and store; the last column block may be narrower."""

        def write(last: bool) -> None:
            for i, place in enumerate(places):
                for b in range(self.tile.blocks):
                    with self.f.lanes(self._width(b, last)) as v:
                        column = chunk * self.tile.columns + b * self.tile.block + v
                        self.epilogue.store([*place, column], acc.total(i, b)[v])

        self._on_last(chunk, write)

    def _pack_weight(self) -> PackedArg:
        """[chunk, step, block, lane], zeros in the lanes past the columns."""
        tile, inner, pairs = self.tile, self.linear.inner, self.pairs
        dims = (self.chunks, self.steps, tile.blocks, tile.block)

        def pack(weight: np.ndarray) -> np.ndarray:
            padded = np.zeros((self.chunks * tile.columns, inner), weight.dtype)
            padded[: weight.shape[0]] = weight
            split = padded.reshape(self.chunks, tile.blocks, tile.block, inner)
            ordered = split.transpose(0, 3, 1, 2)
            return np.ascontiguousarray(pack_pairs(ordered, 1) if pairs else ordered)

        key = f"Nk{tile.blocks}n{tile.block}n{'p' * pairs}"
        return PackedArg(Packed(self.linear.w, key, pack), dims, "int32" if pairs else None)
