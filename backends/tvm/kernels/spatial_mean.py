"""Mean or sum over all pixels of a blocked image: the global pool before a classifier, float32.

    y[n, c] = epilogue((sum over z: x[n, c, z]) / pixels)

Reads blocked channels and stores PLAIN, which is what the linear layer after it wants. Rows are summed first, so
that the error stays small. The region may compute x pointwise from its inputs.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import fx

from ..compat import tirx
from ..epilogue import Epilogue, check_epilogue, plan_operands
from ..ops.pointwise import is_pointwise
from ..plan import PLAIN, Layout
from ..template import Lowered, Refused, Task, Wants
from ..views import shape_of
from .emit import Expr, Function, const

aten = torch.ops.aten


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
    if anchor.kwargs.get("dtype") is not None or source.meta["val"].dtype != torch.float32:
        return "not float32"
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

    def emit(self, task: Task) -> Lowered:
        """Parallel over images and groups of channel blocks; a group's sums run side by side."""
        anchor: Any = task.region.anchor_node
        source = anchor.all_input_nodes[0]
        batch, channels, *space = shape_of(source)
        block = task.target.block
        blocks = -(-channels // block)
        side = next(u for u in (4, 2, 1) if blocks % u == 0 and blocks // u * batch >= min(blocks, task.target.threads))
        with Function(task, PLAIN, plan_operands(task, PLAIN, [])) as f:
            epilogue = Epilogue(f, anchor)
            with f.parallel(batch * (blocks // side)) as index:
                n, group = f.unravel(index, [batch, blocks // side])

                def write(last: bool) -> None:
                    widths = [block] * (side - 1) + [channels % block if last else block]
                    _mean(f, epilogue, anchor, [n, group * side], space, widths)

                if channels % block:
                    f.branches([(group < blocks // side - 1, lambda: write(False)), (True, lambda: write(True))])
                else:
                    write(False)
        return Lowered(f.func, f.args, PLAIN, {"blocks": side})


def _mean(
    f: Function, epilogue: Epilogue, anchor: fx.Node, at: list[Expr], space: list[int], widths: list[int]
) -> None:
    """Sum rows, then rows' sums; divide and store."""
    (n, first), block = at, f.task.target.block
    source = anchor.all_input_nodes[0]
    totals, rows = ([f.vector(block) for _ in widths] for _ in range(2))
    for u, width in enumerate(widths):
        with f.lanes(width) as v:
            f.store(totals[u], const(0.0), [v])
    with f.serial(prod(space[:-1])) as row:
        outer = f.unravel(row, space[:-1])
        for u, width in enumerate(widths):
            with f.lanes(width) as v:
                f.store(rows[u], const(0.0), [v])
        with f.serial(space[-1]) as x:
            for u, width in enumerate(widths):
                with f.lanes(width) as v:
                    pixel = epilogue.at(source, [n, (first + u) * block + v, *outer, x])
                    f.store(rows[u], rows[u][v] + pixel, [v])
        for u, width in enumerate(widths):
            with f.lanes(width) as v:
                f.store(totals[u], totals[u][v] + rows[u][v], [v])
    count = const(float(prod(space)) if anchor.target is aten.mean.dim else 1.0)
    keep = bool(anchor.args[2]) if len(anchor.args) > 2 else False
    for u, width in enumerate(widths):
        with f.lanes(width) as v:
            index = [n, (first + u) * block + v] + [0] * (len(space) if keep else 0)
            epilogue.store(index, tirx.div(totals[u][v], count))
