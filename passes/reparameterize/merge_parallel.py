"""merge_parallel: convolutions or linear layers over one value whose outputs stand side by side become one wider one.

    cat([conv(x; W1, b1), conv(x; W2, b2)], channels)  ==  conv(x; [W1; W2], [b1; b2])

Conditions:
- neighbours in the cat, with equal kernel, stride, padding and dilation, and without groups;
- the cat runs along their channels, and nobody else reads them;
- their weights have one type.

Neighbours that no cat joins (query, key and value of an attention, the first layers of branches) are refused: as one
wider operator their readers would take slices. A convolution reads whole values, so each slice would be copied.
Attention reads slices as they are, but from rows so much longer that this costs more than reading the input again:
measured two per cent of a block's time at 197 tokens of width 384, and four at 32 tokens.

Before:
    program(%x: f32[1, 2]) normalized {
      @a.weight: f32[1, 2] = [[1.0, 2.0]]
      @b.weight: f32[2, 2] = [[3.0, 4.0], [5.0, 6.0]]
      @b.bias: f32[2] = [7.0, 8.0]
      %a: f32[1, 1] = linear(%x, @a.weight, none)   # a
      %b: f32[1, 2] = linear(%x, @b.weight, @b.bias)   # b
      %y: f32[1, 3] = cat([%a, %b], 1)
      return %y
    }

After:
    program(%x: f32[1, 2]) normalized {
      @b.weight_1: f32[3, 2] = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
      @b.bias_1: f32[3] = [0.0, 7.0, 8.0]
      %linear: f32[1, 3] = linear(%x, @b.weight_1, @b.bias_1)   # a, b
      return %linear
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir import linear
from ...ir.program import Program
from ...ir.rules import Call, Refused, Replacement, Rule
from ..base import Pass
from ..fold.affine import uses, value
from ..fold.linear_ops import CONVOLUTION, is_linear_op, named
from .emit import emit
from .expressions import Expressions, space_of

aten = torch.ops.aten


@dataclass(frozen=True)
class MergeParallel(Pass):
    """Stack the weights of operators whose outputs are concatenated."""

    name: ClassVar[str] = "merge_parallel"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """Two rules, one tried at each cat, one at what no cat joins."""
        return (("merge_parallel", merge), ("merge_siblings", siblings))


def merge(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Merge the first two neighbours in a cat that can be one."""
    if node.target is not aten.cat.default:
        return None
    parts: Any = node.args[0]
    reason = None
    for i, (left, right) in enumerate(pairwise(parts)):
        if not (is_linear_op(left) and is_linear_op(right)) or left.args[0] is not right.args[0]:
            continue
        found = _stacked(left, right, node, program)
        if isinstance(found, Call):
            rest = [*parts[:i], found, *parts[i + 2 :]]
            expr = found if len(rest) == 1 else Call(node.target, (rest, node.args[1]), of=(node,))
            return Replacement({node: expr}, covers=(left, right))
        reason = reason or found
    return Refused(reason, node) if reason else None


def siblings(node: fx.Node, program: Program) -> Refused | None:
    """Say why operators over one value that no cat joins stay as they are; once, at the first of them."""
    if not is_linear_op(node):
        return None
    source: Any = node.args[0]
    if node is not next((user for user in source.users if is_linear_op(user)), None):
        return None
    alike = [user for user in source.users if _alike(node, user) and not _joined(node, user)]
    if not alike:
        return None
    names = ", ".join(named(user) for user in alike[:MOST])
    if space_of(node).rank:
        return Refused(f"one convolution for it and {names} would leave slices, which their readers would copy", node)
    return Refused(f"one layer for it and {names} would leave slices of longer rows, which are slower to read", node)


MOST = 3
"""Operators that a reason names."""


def _alike(one: fx.Node, other: fx.Node) -> bool:
    """Say whether two operators over one value differ in nothing but their weights and how many rows these have."""
    if (
        other is one
        or other.target is not one.target
        or other.args[0] is not one.args[0]
        or one.args[3:] != other.args[3:]
    ):
        return False
    mine, theirs = value(one.args[1]), value(other.args[1])
    grouped = one.target is CONVOLUTION and (one.args[6] or one.args[8] != 1)
    return mine.shape[1:] == theirs.shape[1:] and mine.dtype == theirs.dtype and not grouped


def _joined(one: fx.Node, other: fx.Node) -> bool:
    """Say whether a cat or a sum reads both."""
    joins = (aten.cat.default, aten.add.Tensor, aten.sub.Tensor)
    return any(user in other.users for user in one.users if user.target in joins)


def _stacked(left: fx.Node, right: fx.Node, cat: fx.Node, program: Program) -> Call | str:
    """One call for two neighbours, or why they stay two."""
    read = Expressions(program, space_of(left))
    if space_of(right) != read.space or cat.args[1] != read.space.axis or not (read.input(left) and read.input(right)):
        return "they do not stand side by side along their channels"
    if uses(left) > 1 or uses(right) > 1:
        return "one of them has other readers"
    if value(left.args[1]).dtype != value(right.args[1]).dtype:
        return "their weights differ in type"
    both = linear.stack([read.step(left), read.step(right)])
    if isinstance(both, str):
        return both
    source: Any = left.args[0]
    written = emit(both, source, read.space, [left, right])
    if isinstance(written, str):
        return written
    assert isinstance(written.expr, Call)
    return Call(written.expr.op, written.expr.args, of=(left, right))
