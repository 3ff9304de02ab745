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
    position, _ = _place(task, node, [0] * len(shape_of(node)))
    value = task.inputs[position]
    if value.dtype != "bfloat16" or value.layout != PLAIN or not has_dot(task.target) or task.target.block != 16:
        return False
    shape = shape_of(node)
    return not shape[-1] % 2 and _side_by_side(task, node)


def _side_by_side(task: Task, node: fx.Node) -> bool:
    """Proves, for every index, that 2p lies at an even place and 2p + 1 behind it."""
    analyzer = tvm.sym.Analyzer()
    index: list[Expr] = []
    for extent in (*shape_of(node)[:-1], shape_of(node)[-1] // 2):
        var = tirx.Var("i", "int32")
        analyzer.bind(var, tvm.ir.Range(0, extent))
        index.append(var)
    first, second = (_offset(task, node, [*index[:-1], 2 * index[-1] + k]) for k in (0, 1))
    even = tirx.EQ(tirx.floormod(first, 2), 0)
    return bool(analyzer.can_prove(even)) and bool(analyzer.can_prove(tirx.EQ(second - first, 1)))


def _place(task: Task, node: fx.Node, index: Sequence[Expr]) -> tuple[int, list[Expr]]:
    """Position of the region input that `node` shows, and the index there."""
    where = list(index)
    while is_view(node):
        where = source_index(node, where)
        node = node.all_input_nodes[0]
    return task.region.placeholders.index(node), where


def _offset(task: Task, node: fx.Node, index: Sequence[Expr]) -> Expr:
    position, where = _place(task, node, index)
    return tirx.const(0, "int32") + ravel(where, task.inputs[position].shape)


class Pairs:
    """The operands of a kernel that are read in pairs."""

    def __init__(self, f: Function, nodes: Sequence[fx.Node]) -> None:
        """Each of `nodes` must be readable in pairs."""
        self._f = f
        self._buffers: Mapping[int, Buffer] = {
            position: f.pairs(f.inputs[position], (prod(f.task.inputs[position].shape) // 2,))
            for position in {_place(f.task, node, [0] * len(shape_of(node)))[0] for node in nodes}
        }

    def at(self, node: fx.Node, index: Sequence[Expr], p: Expr) -> Expr:
        """The pair number `p` of the last axis, at `index` of the others."""
        position, _ = _place(self._f.task, node, [*index, 2 * p])
        offset: Any = _offset(self._f.task, node, [*index, 2 * p])
        return self._buffers[position][self._f.simplify(tirx.floordiv(offset, 2))]
