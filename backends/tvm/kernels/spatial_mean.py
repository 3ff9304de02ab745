"""Mean or sum over all pixels of a blocked image: the global pool before a classifier, float32.

    y[n, c] = epilogue((sum over z: x[n, c, z]) / pixels)

Reads blocked channels and stores PLAIN, which is what the linear layer after it wants. Rows are summed first, so
that the error stays small. The region may compute x pointwise from its inputs.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any

import torch
from torch import fx

from ..compat import tirx
from ..epilogue import Epilogue, check_epilogue, plan_operands
from ..ops.pointwise import is_pointwise
from ..plan import PLAIN, Layout
from ..template import Choice, Lowered, Refused, Task, Wants
from ..views import dtype_of, shape_of
from .emit import Buffer, Expr, Function, const

aten = torch.ops.aten

_FEW = 4
"""Images times channel blocks below which the pixels are shared among threads."""

_ALONE = 4096
"""Elements that one thread sums faster than several begin to."""

_PARTS = 8


def _refusal(task: Task) -> str | None:
    """Why the region is no mean over all pixels of a blocked value."""
    anchor = task.region.anchor_node
    if anchor is None or anchor.target not in (aten.mean.dim, aten.sum.dim_IntList):
        return "not a mean or sum"
    source = anchor.all_input_nodes[0]
    rank = len(shape_of(source))
    dims: Any = anchor.args[1]
    if rank not in (3, 4, 5) or sorted(d % rank for d in dims or ()) != list(range(2, rank)):
        return "not over all spatial dims"
    if anchor.kwargs.get("dtype") is not None or dtype_of(source) != "float32":
        return "not float32 or bfloat16"
    before: list[fx.Node] = task.region.prologue
    if not all(is_pointwise(n) for n in before):
        return "its input is a view or reduction"
    full = {task.region.placeholders.index(p) for p in _sources(task, source)}
    if any(task.inputs[i].layout == PLAIN for i in full) or full & task.constants or not full:
        return "its input is not in blocked channels"
    return None


def _sources(task: Task, node: fx.Node) -> list[fx.Node]:
    """Placeholders that the anchor's input is computed from and that vary along channels and pixels."""
    nodes, found = [node], []
    while nodes:
        at = nodes.pop()
        nodes += at.all_input_nodes
        shape = shape_of(at)
        full = shape_of(node)
        if at in task.region.placeholders and len(shape) == len(full) and (shape[1] > 1 or shape == full):
            found.append(at)
    return found


class SpatialMean:
    """The template: mean.dim and sum.dim_IntList over all spatial dims."""

    name = "spatial_mean"

    def wants(self, task: Task) -> Wants | Refused:
        """Blocked input, PLAIN everything else."""
        anchor: Any = task.region.anchor_node
        if reason := _refusal(task) or check_epilogue(task, anchor, PLAIN):
            return Refused(reason)
        layout: Layout = f"c{task.target.block}"
        layouts: dict[int, tuple[Layout, ...]] = {
            i: (PLAIN,) for i in range(len(task.inputs)) if i not in task.constants
        }
        for node in _sources(task, anchor.all_input_nodes[0]):
            layouts[task.region.placeholders.index(node)] = (layout,)
        return Wants(layouts, PLAIN)

    def space(self, task: Task) -> Sequence[Choice]:
        """How many blocks of channels are summed side by side."""
        default = _default(task)
        blocks = -(-shape_of(_anchor(task).all_input_nodes[0])[1] // task.target.block)
        sides = (side for side in dict.fromkeys((default["blocks"], 4, 2, 1)) if blocks % int(side) == 0)
        return [{**default, "blocks": side} for side in sides]

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Parallel over images and groups of channel blocks, and over parts of the pixels where those are few."""
        with Function(task, PLAIN, plan_operands(task, PLAIN, [])) as f:
            chosen = _default(task) if choice is None else choice
            kernel = _Kernel(task, f, int(chosen["blocks"]), int(chosen["parts"]))
            if kernel.parts > 1:
                kernel.emit_in_parts()
            else:
                kernel.emit()
        return Lowered(f.func, f.args, PLAIN, chosen)


def _default(task: Task) -> Choice:
    """As many blocks of channels side by side as leave enough groups to share, and parts of the pixels if few do."""
    batch, channels, *space = shape_of(_anchor(task).all_input_nodes[0])
    blocks = -(-channels // task.target.block)
    side = next(u for u in (4, 2, 1) if blocks % u == 0 and batch * blocks // u >= min(blocks, _FEW))
    few = batch * blocks < _FEW and batch * channels * prod(space) > _ALONE
    return {"blocks": side, "parts": min(_PARTS, max(space)) if few else 1}


class _Kernel:
    """The kernel of one task. How it is cut depends on shapes alone, so that sums do not depend on threads."""

    def __init__(self, task: Task, f: Function, side: int, parts: int) -> None:
        """`side` blocks of channels are summed side by side, `parts` of the pixels apart."""
        self.f, self.anchor, self.block = f, _anchor(task), task.target.block
        self.epilogue = Epilogue(f, self.anchor)
        self.source = self.anchor.all_input_nodes[0]
        self.batch, self.channels, *self.space = shape_of(self.source)
        blocks = -(-self.channels // self.block)
        self.axis = max(range(len(self.space)), key=lambda i: (self.space[i], -i))
        self.side, self.parts = side, parts
        self.grid = [self.batch, blocks // self.side]

    def emit(self) -> None:
        """A group's sums run side by side, over all pixels."""
        f = self.f
        with f.parallel(prod(self.grid)) as index:
            n, group = f.unravel(index, self.grid)
            totals = [f.vector(self.block) for _ in range(self.side)]

            def write(widths: list[int]) -> None:
                self._sum([n, group * self.side], [(0, extent) for extent in self.space], widths, totals)
                self._store([n, group * self.side], widths, lambda u, v: totals[u][v])

            self._with_widths(group, write)

    def emit_in_parts(self) -> None:
        """Sums of parts of the pixels, then the sums of those in their order."""
        f, shape = self.f, [*self.grid, self.parts]
        partial = f.scratch((*shape, self.side, self.block))
        extent = self.space[self.axis]
        with f.parallel(prod(shape)) as index:
            n, group, part = f.unravel(index, shape)
            totals = [f.vector(self.block) for _ in range(self.side)]
            bounds: list[tuple[Expr, Expr]] = [(0, e) for e in self.space]
            bounds[self.axis] = (part * extent // self.parts, (part + 1) * extent // self.parts)

            def keep(widths: list[int]) -> None:
                self._sum([n, group * self.side], bounds, widths, totals)
                for u, width in enumerate(widths):
                    with f.lanes(width) as v:
                        f.store(partial, totals[u][v], [n, group, part, u, v])

            self._with_widths(group, keep)
        with f.serial(self.grid[0]) as n, f.serial(self.grid[1]) as group:

            def write(widths: list[int]) -> None:
                def total(u: int, v: Expr) -> Expr:
                    return functools.reduce(operator.add, (partial[n, group, p, u, v] for p in range(self.parts)))

                self._store([n, group * self.side], widths, total)

            self._with_widths(group, write)

    def _with_widths(self, group: Expr, body: Callable[[list[int]], None]) -> None:
        """`body` for whole blocks, and for the group whose last block ends at the last channel."""
        whole, rest = [self.block] * self.side, self.channels % self.block
        last = [*whole[1:], rest]
        if not rest:
            body(whole)
        else:
            self.f.branches([(group < self.grid[1] - 1, lambda: body(whole)), (True, lambda: body(last))])

    def _sum(
        self, at: list[Expr], bounds: Sequence[tuple[Expr, Expr]], widths: list[int], totals: Sequence[Buffer]
    ) -> None:
        """Sum the rows within `bounds`, and the rows' sums into `totals`."""
        f, (n, first), *rows = self.f, at, *(self.f.vector(self.block) for _ in widths)
        self._fill(totals, widths)
        with ExitStack() as loops:
            outer = [loops.enter_context(f.serial(high, low)) for low, high in bounds[:-1]]
            self._fill(rows, widths)
            with f.serial(bounds[-1][1], bounds[-1][0]) as x:
                for u, width in enumerate(widths):
                    with f.lanes(width) as v:
                        pixel = self.epilogue.at(self.source, [n, (first + u) * self.block + v, *outer, x])
                        f.store(rows[u], rows[u][v] + pixel, [v])
            for u, width in enumerate(widths):
                with f.lanes(width) as v:
                    f.store(totals[u], totals[u][v] + rows[u][v], [v])

    def _fill(self, buffers: Sequence[Buffer], widths: list[int]) -> None:
        for buffer, width in zip(buffers, widths, strict=True):
            with self.f.lanes(width) as v:
                self.f.store(buffer, const(0.0), [v])

    def _store(self, at: list[Expr], widths: list[int], total: Callable[[int, Expr], Expr]) -> None:
        """Divide and store."""
        count = const(float(prod(self.space)) if self.anchor.target is aten.mean.dim else 1.0)
        keep = len(self.anchor.args) > 2 and bool(self.anchor.args[2])
        n, first = at
        for u, width in enumerate(widths):
            with self.f.lanes(width) as v:
                index = [n, (first + u) * self.block + v] + [0] * (len(self.space) if keep else 0)
                self.epilogue.store(index, tirx.div(total(u, v), count))


def _anchor(task: Task) -> fx.Node:
    assert task.region.anchor_node is not None
    return task.region.anchor_node
