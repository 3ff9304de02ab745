"""Pooling windows of codes in blocked channels: sums in int32, or the largest code; exact.

    sum:  y[n, c, z] = epilogue(sum over taps k of z: x[n, c, z*stride - pad + k*dilation] - x_zero)
    max:  y[n, c, z] = epilogue(max over taps k of z: x[...])

Taps outside the image are left out, so that a sum has as many zero points less as its window has pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.ops import integer_name
from ..compat import tirx
from ..epilogue import Epilogue, plan_operands, reads_exact_lanes, wants_blocked
from ..template import Choice, Lowered, Refused, Task, Wants
from ..views import shape_of
from .depthwise import pixels_to_try
from .dot import wrapped
from .emit import Buffer, Expr, Function, const
from .pool import Pooling, PoolKernel
from .requantize import read_head
from .window import Axis, three_axes

NARROW = ("uint8", "int8", "int16")


def read_integer_pool(task: Task) -> tuple[Pooling, int] | Refused:
    """Geometry and zero point of the region's pool of codes, or why this template cannot take it."""
    anchor = task.region.anchor_node
    name = "" if anchor is None else integer_name(anchor)
    if anchor is None or name not in ("sum_pool", "max_pool"):
        return Refused("not a pool of codes")
    args: Any = anchor.args
    source, zero, rest = (args[0], args[1], args[2:]) if name == "sum_pool" else (args[0], 0, args[1:])
    if source not in task.region.placeholders:
        return Refused("its input is computed inside the region")
    position = task.region.placeholders.index(source)
    shape, out = shape_of(source), shape_of(anchor)
    if task.inputs[position].dtype not in NARROW or position in task.constants:
        return Refused(f"not an activation of 8 or 16 bits, but {task.inputs[position].dtype}")
    rank = len(shape) - 2
    kernel, stride, pad = rest[:3]
    if rank != len(kernel):
        return Refused(f"rank {len(shape)} for windows of rank {len(kernel)}")
    dilation = rest[3] if name == "max_pool" else [1] * rank
    axes = [Axis(*a) for a in zip(shape[2:], out[2:], kernel, stride, pad, dilation, strict=True)]
    if name == "max_pool" and any(not axis.taps(z) for axis in axes for z in range(axis.out)):
        return Refused("a window misses the image")
    return Pooling("max" if name == "max_pool" else "sum", shape[0], shape[1], three_axes(axes), position), zero


class PoolInteger:
    """The template: sums and maxima of codes over windows."""

    name = "pool_integer"

    def wants(self, task: Task) -> Wants | Refused:
        """Everything blocked."""
        read = read_integer_pool(task)
        return read if isinstance(read, Refused) else wants_blocked(task, {read[0].x: (f"c{task.target.block}",)})

    def space(self, task: Task) -> Sequence[Choice]:
        """Pixels of a tile."""
        read = read_integer_pool(task)
        assert not isinstance(read, Refused)
        return [{"pixels": pixels} for pixels in pixels_to_try(task, read[0].axes[2].out)]

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Parallel over rows, tiles of pixels within a row."""
        read = read_integer_pool(task)
        assert not isinstance(read, Refused)
        return _Kernel(task, *read, None if choice is None else int(choice["pixels"])).lower()


class _Kernel(PoolKernel):
    """The kernel of one task: what is other than with floats."""

    def __init__(self, task: Task, pool: Pooling, zero: int, pixels: int | None = None) -> None:
        """`zero` is the code that means 0."""
        super().__init__(task, pool, pixels)
        anchor: Any = task.region.anchor_node
        self.zero, self.anchor = zero, anchor
        self.head = read_head(task, anchor, self.layout, self.block) if pool.kind == "sum" else None

    def open(self) -> Function:
        """The head of the epilogue, if it has one, takes whole vectors of sums and has packed constants."""
        operands = plan_operands(self.task, self.layout, self.head.taken if self.head else [])
        self.exact = self.pool.channels % self.block != 0 and reads_exact_lanes(self.task, operands)
        packed = self.head.pack(self.blocks * self.block) if self.head else []
        return Function(self.task, self.layout, operands, packed)

    def ready(self, f: Function) -> None:
        """What follows the head is evaluated as it is stored."""
        self.epilogue = Epilogue(f, self.head.node if self.head else self.anchor)

    def start(self, width: int) -> list[Buffer]:
        """Sums of int32, or codes."""
        largest = self.pool.kind == "max"
        dtype = self.task.inputs[self.pool.x].dtype if largest else "int32"
        acc = [self.f.vector(self.block, dtype) for _ in range(width)]
        for vector in acc:
            with self.f.lanes(self.block) as v:
                self.f.store(vector, tirx.min_value(dtype) if largest else const(0, dtype), [v])
        return acc

    def tap(self, vector: Buffer, index: list[Expr]) -> None:
        """Take one pixel into account."""
        with self.f.lanes(self.block) as v:
            pixel = self.x[(*index, v)]
            largest = self.pool.kind == "max"
            self.f.store(
                vector, tirx.max(vector[v], pixel) if largest else wrapped(vector[v], tirx.Cast("int32", pixel)), [v]
            )

    def counted(self) -> bool:
        """Pixels of a window matter where each has a zero point in the sum."""
        return self.pool.kind == "sum" and self.zero != 0

    def write(self, vector: Buffer, count: Expr | None, lanes: int, lead: list[Expr], trail: list[Expr]) -> None:
        """Take the zero points away, then the epilogue."""
        channel = lead[1] * self.block
        if count is not None:
            zeros = const(-self.zero, "int32") * tirx.Cast("int32", count)
            with self.f.lanes(self.block) as v:
                self.f.store(vector, wrapped(vector[v], zeros), [v])
        if self.head is not None:
            self.head.apply(self.f, vector, self.block, channel, [lead[0], channel, *trail], 0)
        with self.f.lanes(lanes) as v:
            value = vector[v] if self.head is None else self.head.value(vector, v)
            self.epilogue.store([lead[0], channel + v, *trail], value)
