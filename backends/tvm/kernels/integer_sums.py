"""What every kernel of integer sums does before and after them: where a sum starts, and what becomes of it.

sum = b[o] - x_zero · Σ over taps seen: w[o]        before x is multiplied as it lies
y = epilogue(sum)                                   its first node in vectors of 32 bits, where that is exact
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from torch import fx

from ..compat import tirx
from ..epilogue import Epilogue, plan_operands, reads_exact_lanes
from ..plan import PLAIN, Layout
from ..template import Packed, Task
from .borders import Classes, corrections
from .conv import pack_bias
from .dot import wrapped
from .emit import Buffer, Expr, Function, Operands, PackedArg, const
from .narrowing import TOGETHER, narrowed, narrows
from .requantize import read_head
from .table import read_table


class IntegerSums:
    """Bias, zero point and epilogue of sums over `size` channels in vectors of `lanes`."""

    def __init__(self, task: Task, layout: Layout, lanes: int, size: int, w: int, bias: int | None) -> None:
        """`w` and `bias` are the positions of the weight and of the bias."""
        anchor: Any = task.region.anchor_node
        self.task, self.layout, self.lanes, self.size, self.w, self.bias = task, layout, lanes, size, w, bias
        self.anchor: fx.Node = anchor
        self.head = read_head(task, anchor, layout, lanes)
        self.table = None if self.head is None else read_table(task, self.head.node, lanes)
        self._corrected = False
        self._count = 0

    def operands(self) -> Operands:
        """Everything that the kernel does not pack itself."""
        taken = [self.w, *([] if self.bias is None else [self.bias]), *(self.head.taken if self.head else [])]
        return plan_operands(self.task, self.layout, taken)

    def ends_inside(self, operands: Operands) -> bool:
        """Whether the last block is stored lane by lane, because an operand ends where its channels end."""
        return self.task.output.shape[1] % self.lanes != 0 and reads_exact_lanes(self.task, operands)

    def pack(self, x_zero: int, classes: Sequence[Classes], kernel: Sequence[int], key: str) -> list[PackedArg]:
        """The arguments beside the weight, which are the last ones; `key` names the classes of pixels."""
        packed = [] if self.bias is None else [pack_bias(self.bias, self.size, self.lanes)]
        self._corrected = x_zero != 0
        if x_zero:
            size = self.size

            def pack(weight: np.ndarray) -> np.ndarray:
                shaped = weight.reshape(*weight.shape[:2], *kernel)
                return corrections(shaped, x_zero, classes, size)

            dims = (*(len(c.taps) for c in classes), size)
            packed.append(PackedArg(Packed(self.w, f"z{x_zero}o{size}_{key}", pack), dims, "int32"))
        packed += self.head.pack(self.size) if self.head else []
        self._count = len(packed)
        return packed

    def open(self, f: Function) -> None:
        """Begin to emit into `f`."""
        self.f = f
        done = self.table or self.head
        self.epilogue = Epilogue(f, self.anchor if done is None else done.node)
        self._first = len(f.weights) - self._count
        self._whole: Buffer = None
        out = self.task.output
        last = self.head is not None and self.head.node is self.task.region.result
        if last and self.layout != PLAIN and narrows(self.task.target, self.lanes, out.dtype):
            blocks = -(-out.shape[1] // self.lanes)
            self._whole = f.alias(f.output, (out.shape[0], blocks, prod(out.shape[2:]) * self.lanes))

    def start(self, vector: Buffer, channel: Expr, pixel: Sequence[Expr]) -> None:
        """Set the sums of the channels from `channel` on, at a pixel of these classes."""
        own = self.f.weights[self._first :]
        with self.f.lanes(self.lanes) as v:
            terms = [] if self.bias is None else [own[0][channel + v]]
            if self._corrected:
                terms.append(own[self.bias is not None][(*pixel, channel + v)])
            self.f.store(vector, wrapped(*terms) if len(terms) == 2 else (*terms, const(0, "int32"))[0], [v])

    def store_row(
        self, vectors: Sequence[Buffer], kept: int, lead: Sequence[Expr], channel: Expr, at: Callable[[int], list[Expr]]
    ) -> None:
        """Finish the sums of neighbours in a row, pixel `number` being `at(number)`; as `store`, some at once."""
        whole = self._whole is not None and kept == self.lanes
        together = len(vectors) // TOGETHER * TOGETHER if whole else 0
        for first in range(0, together, TOGETHER):
            places = [at(first + i) for i in range(TOGETHER)]
            self._store_together(vectors[first : first + TOGETHER], lead, channel, places)
        for number, vector in enumerate(vectors[together:], together):
            self.store(vector, kept, lead, channel, at(number))

    def _store_together(
        self, vectors: Sequence[Buffer], lead: Sequence[Expr], channel: Expr, places: list[list[Expr]]
    ) -> None:
        """Neighbours in a row lie one behind the other, each with a block of channels."""
        assert self.head is not None
        four = [
            self.head.code(self.f, vector, self.lanes, channel, [*lead, channel, *place], self._head_at)
            for vector, place in zip(vectors, places, strict=True)
        ]
        pixel: Expr = 0
        for index, extent in zip(places[0], self.task.output.shape[2:], strict=True):
            pixel = pixel * extent + index
        start = self.f.simplify(pixel * self.lanes)
        where = [*lead, self.f.simplify(channel // self.lanes), tirx.Ramp(start, 1, self.lanes * TOGETHER)]
        self.f.store(self._whole, narrowed(four, self.task.output.dtype, self.head.bounds[1:]), where)

    @property
    def _head_at(self) -> int:
        """Where the head's packed vectors begin."""
        return self._first + (self.bias is not None) + self._corrected

    def store(self, vector: Buffer, kept: int, lead: Sequence[Expr], channel: Expr, trail: Sequence[Expr]) -> None:
        """Finish the sums of the channels from `channel` on and store the first `kept`."""
        if self.head is not None:
            self.head.apply(self.f, vector, self.lanes, channel, [*lead, channel, *trail], self._head_at)
        if self.table is not None:
            self.table.apply(self.f, vector)
        done = self.table or self.head
        with self.f.lanes(kept) as v:
            value = vector[v] if done is None else done.value(vector, v)
            self.epilogue.store([*lead, channel + v, *trail], value)
