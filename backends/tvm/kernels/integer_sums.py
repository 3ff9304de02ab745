"""What every kernel of integer sums does before and after them: where a sum starts, and what becomes of it.

sum = b[o] - x_zero · Σ over taps seen: w[o]        before x is multiplied as it lies
y = epilogue(sum)                                   its first node in vectors of 32 bits, where that is exact
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from ..epilogue import Epilogue, plan_operands, reads_exact_lanes
from ..plan import Layout
from ..template import Packed, Task
from .borders import Classes, corrections
from .conv import pack_bias
from .dot import wrapped
from .emit import Buffer, Expr, Function, Operands, PackedArg, const
from .requantize import read_head


class IntegerSums:
    """Bias, zero point and epilogue of sums over `size` channels in vectors of `lanes`."""

    def __init__(self, task: Task, layout: Layout, lanes: int, size: int, w: int, bias: int | None) -> None:
        """`w` and `bias` are the positions of the weight and of the bias."""
        anchor: Any = task.region.anchor_node
        self.task, self.layout, self.lanes, self.size, self.w, self.bias = task, layout, lanes, size, w, bias
        self.anchor: fx.Node = anchor
        self.head = read_head(task, anchor, layout, lanes)
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
        self.epilogue = Epilogue(f, self.anchor if self.head is None else self.head.node)
        self._first = len(f.weights) - self._count

    def start(self, vector: Buffer, channel: Expr, pixel: Sequence[Expr]) -> None:
        """Set the sums of the channels from `channel` on, at a pixel of these classes."""
        own = self.f.weights[self._first :]
        with self.f.lanes(self.lanes) as v:
            terms = [] if self.bias is None else [own[0][channel + v]]
            if self._corrected:
                terms.append(own[self.bias is not None][(*pixel, channel + v)])
            self.f.store(vector, wrapped(*terms) if len(terms) == 2 else (*terms, const(0, "int32"))[0], [v])

    def store(self, vector: Buffer, kept: int, lead: Sequence[Expr], channel: Expr, trail: Sequence[Expr]) -> None:
        """Finish the sums of the channels from `channel` on and store the first `kept`."""
        if self.head is not None:
            first = self._first + (self.bias is not None) + self._corrected
            self.head.apply(self.f, vector, self.lanes, channel, [*lead, channel, *trail], first)
        with self.f.lanes(kept) as v:
            value = vector[v] if self.head is None else self.head.value(vector, v)
            self.epilogue.store([*lead, channel + v, *trail], value)
