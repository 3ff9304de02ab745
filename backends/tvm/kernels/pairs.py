"""Pairs of bfloat16 read through views: two neighbours along the last axis of a value, as one int32.

pair(index, p) = bits of x[index, 2p] and x[index, 2p + 1]        where these lie side by side in memory
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import fx

from ..compat import tirx, tvm
from ..plan import PLAIN
from ..template import Task
from ..views import is_view, ravel, shape_of, source_index
from .bfloat16 import has_dot
from .emit import Buffer, Expr, Function


def in_pairs(task: Task, node: fx.Node) -> bool:
    """Whether `node`, a PLAIN region input under views alone, can be read in pairs along its last axis."""
    position, _ = place_of(task, node, [0] * len(shape_of(node)))
    value = task.inputs[position]
    if value.dtype != "bfloat16" or value.layout != PLAIN or not has_dot(task.target) or task.target.block != 16:
        return False
    shape = shape_of(node)
    return not shape[-1] % 2 and side_by_side(task, node, 2)


def side_by_side(task: Task, node: fx.Node, count: int) -> bool:
    """Proves, for every index, that the `count` elements from count · p on lie in order from a multiple of it on."""
    analyzer = tvm.sym.Analyzer()
    index: list[Expr] = []
    for extent in (*shape_of(node)[:-1], shape_of(node)[-1] // count):
        var = tirx.Var("i", "int32")
        analyzer.bind(var, tvm.ir.Range(0, extent))
        index.append(var)
    first, *others = (offset_of(task, node, [*index[:-1], count * index[-1] + k]) for k in range(count))
    facts = [tirx.EQ(tirx.floormod(first, count), 0)]
    facts += [tirx.EQ(other - first, k) for k, other in enumerate(others, 1)]
    return all(bool(analyzer.can_prove(fact)) for fact in facts)


def place_of(task: Task, node: fx.Node, index: Sequence[Expr]) -> tuple[int, list[Expr]]:
    """Position of the region input that `node` shows, and the index there."""
    where = list(index)
    while is_view(node):
        where = source_index(node, where)
        node = node.all_input_nodes[0]
    return task.region.placeholders.index(node), where


def offset_of(task: Task, node: fx.Node, index: Sequence[Expr]) -> Expr:
    """Where in that input the element at `index` of `node` lies."""
    position, where = place_of(task, node, index)
    return tirx.const(0, "int32") + ravel(where, task.inputs[position].shape)


class Pairs:
    """The operands of a kernel that are read in pairs."""

    def __init__(self, f: Function, nodes: Sequence[fx.Node]) -> None:
        """Each of `nodes` must be readable in pairs."""
        self._f = f
        self._buffers: Mapping[int, Buffer] = {
            position: f.pairs(f.inputs[position], (prod(f.task.inputs[position].shape) // 2,))
            for position in {place_of(f.task, node, [0] * len(shape_of(node)))[0] for node in nodes}
        }

    def at(self, node: fx.Node, index: Sequence[Expr], p: Expr) -> Expr:
        """The pair number `p` of the last axis, at `index` of the others."""
        position, _ = place_of(self._f.task, node, [*index, 2 * p])
        offset: Any = offset_of(self._f.task, node, [*index, 2 * p])
        return self._buffers[position][self._f.simplify(tirx.floordiv(offset, 2))]
