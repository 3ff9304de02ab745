"""Concatenation with pointwise operations after it: whole vectors at a time.

    y[..., offset_k + i, ...] = epilogue(x_k[..., i, ...])

Along the channels of blocked values an input's block is copied as two runs of lanes, since its channels may begin
in the middle of an output block. Everything else is concatenated PLAIN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import fx

from ..epilogue import Epilogue, check_epilogue, operand_layouts, plan_operands
from ..plan import PLAIN, Layout
from ..template import Choice, Lowered, Refused, Task, Wants
from ..views import shape_of
from .emit import Expr, Function

CHUNKS = (4096, 1024, 16384)
"""Elements that one task of the parallel loop copies at least; the first is the default."""


@dataclass(frozen=True)
class Part:
    """One input: its node, its place along the axis, its extent there."""

    node: fx.Node
    offset: int
    extent: int


def read_concat(task: Task) -> tuple[int, list[Part]] | Refused:
    """(axis, parts) of the region's concatenation, or why this template cannot take it."""
    anchor = task.region.anchor_node
    if anchor is None or anchor.target is not torch.ops.aten.cat.default:
        return Refused("not a concatenation")
    tensors: Any = anchor.args[0]
    if any(t not in task.region.placeholders for t in tensors):
        return Refused("an input is computed inside the region")
    if len({t.meta["val"].dtype for t in tensors}) > 1:
        return Refused("its inputs differ in dtype")
    rank = len(shape_of(anchor))
    axis = (int(anchor.args[1]) if len(anchor.args) > 1 else 0) % rank  # type: ignore[arg-type]
    parts, offset = [], 0
    for node in tensors:
        if len(shape_of(node)) != rank:
            continue  # PyTorch ignores an empty one-dimensional tensor here
        parts.append(Part(node, offset, shape_of(node)[axis]))
        offset += parts[-1].extent
    return axis, [p for p in parts if p.extent]


class Concat:
    """The template: cat along any axis."""

    name = "concat"

    def wants(self, task: Task) -> Wants | Refused:
        """Blocked if the readers like it or all inputs are, and it is along the channels; PLAIN otherwise."""
        read = read_concat(task)
        if isinstance(read, Refused):
            return read
        layout = self._layout(task, *read)
        anchor: Any = task.region.anchor_node
        if reason := check_epilogue(task, anchor, layout):
            return Refused(reason)
        layouts: dict[int, tuple[Layout, ...]] = {
            i: (PLAIN,) for i in range(len(task.inputs)) if i not in task.constants
        }
        layouts |= operand_layouts(task, anchor, layout)
        for part in read[1]:
            layouts[task.region.placeholders.index(part.node)] = (layout,)
        return Wants(layouts, layout)

    def _layout(self, task: Task, axis: int, parts: list[Part]) -> Layout:
        """The layout that costs the fewest conversions."""
        inputs = [task.region.placeholders.index(p.node) for p in parts]
        if axis != 1 or len(task.output.shape) not in (3, 4, 5) or any(i in task.constants for i in inputs):
            return PLAIN
        blocked = sum(p.extent for p, i in zip(parts, inputs, strict=True) if task.inputs[i].layout != PLAIN)
        liked = 2 if task.hint != PLAIN else 0
        return f"c{task.target.block}" if 2 * blocked + liked * blocked > task.output.shape[1] else PLAIN

    def space(self, task: Task) -> Sequence[Choice]:
        """How much a task copies, where rows are copied: blocks of channels are a task each."""
        read = read_concat(task)
        assert not isinstance(read, Refused)
        return [{"chunk": chunk} for chunk in CHUNKS] if self._made_of(task, read[1]) == PLAIN else ()

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """One parallel loop: for all inputs, or, PLAIN, for each."""
        read = read_concat(task)
        assert not isinstance(read, Refused)
        axis, parts = read
        wants = self.wants(task)
        assert isinstance(wants, Wants)
        layout = self._made_of(task, parts)
        chunk = CHUNKS[0] if choice is None else int(choice["chunk"])
        anchor: Any = task.region.anchor_node
        made = task.within.intersection(task.region.placeholders.index(part.node) for part in parts)
        with Function(task, layout, plan_operands(task, layout, sorted(made))) as f:
            epilogue = Epilogue(f, anchor)
            # a part that was made here is not copied; what the epilogue reads and overwrites is no part
            copied = [part for part in parts if task.region.placeholders.index(part.node) not in made]
            if layout != PLAIN and copied:
                _copy_blocked(f, epilogue, copied)
            else:
                for part in copied:
                    _copy_plain(f, epilogue, axis, part, chunk)
        return Lowered(f.func, f.args, layout, {"chunk": chunk} if layout == PLAIN else {})

    def _made_of(self, task: Task, parts: list[Part]) -> Layout:
        """The layout in which the inputs arrived."""
        return task.inputs[task.region.placeholders.index(parts[0].node)].layout


def _copy_plain(f: Function, epilogue: Epilogue, axis: int, part: Part, chunk: int) -> None:
    """Rows along the last axis, in vectors."""
    shape = shape_of(part.node)
    *outer, inner = shape
    lanes = 4 * f.task.target.lanes

    def store(index: list[Expr]) -> None:
        out = [i + part.offset if a == axis else i for a, i in enumerate(index)]
        epilogue.store(out, epilogue.at(part.node, index))

    rows = prod(outer)
    group = max(1, min(rows, chunk // inner))
    with f.parallel(-(-rows // group)) as task, f.serial(group) as r:

        def row() -> None:
            index = f.unravel(f.let(task * group + r, rows), outer)
            if inner >= lanes:
                with f.serial(inner // lanes) as i, f.lanes(lanes) as v:
                    store([*index, i * lanes + v])
            if inner % lanes:
                with f.lanes(inner % lanes) as v:
                    store([*index, inner // lanes * lanes + v])

        if rows % group:
            f.when(task * group + r < rows, row)
        else:
            row()


def _copy_blocked(f: Function, epilogue: Epilogue, parts: Sequence[Part]) -> None:
    """Blocks of channels of all parts in one loop: starting one takes as long as copying a small part."""
    batch, _, *space = shape_of(parts[0].node)
    ends = list(accumulate(-(-part.extent // f.task.target.block) for part in parts))
    with f.parallel(batch * ends[-1] * prod(space[:-1])) as task:
        n, number, *outer = f.unravel(task, [batch, ends[-1], *space[:-1]])

        def row(part: Part, first: int, end: int) -> Callable[[], None]:
            return lambda: _copy_row(f, epilogue, part, n, f.let(number - first, end - first), outer, space[-1])

        f.branches([
            (number < end, row(part, first, end)) for part, first, end in zip(parts, [0, *ends], ends, strict=False)
        ])  # fmt: skip


def _copy_row(f: Function, epilogue: Epilogue, part: Part, n: Expr, c: Expr, outer: Sequence[Expr], width: int) -> None:
    """A row of pixels of block `c` of a part, each as the lanes before and after an output block's border."""
    block = f.task.target.block
    blocks, shift = -(-part.extent // block), part.offset % block

    def lanes(x: Expr, start: int, stop: int) -> None:
        if start < stop:
            with f.lanes(stop - start) as v:
                channel = c * block + start + v
                value = epilogue.at(part.node, [n, channel, *outer, x])
                epilogue.store([n, part.offset + channel, *outer, x], value)

    def copy(count: int) -> Callable[[], None]:
        def body() -> None:
            with f.serial(width) as x:
                lanes(x, 0, min(count, block - shift))
                lanes(x, block - shift, count)

        return body

    rest = part.extent % block
    f.branches([(c < blocks - 1, copy(block)), (True, copy(rest))] if rest else [(True, copy(block))])
