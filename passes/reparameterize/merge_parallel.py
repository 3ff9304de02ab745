"""merge_parallel: convolutions or linear layers over one value whose outputs stand side by side become one wider one.

    cat([conv(x; W1, b1), conv(x; W2, b2)], channels)  ==  conv(x; [W1; W2], [b1; b2])

Conditions:
- neighbours in the cat, with equal kernel, stride, padding and dilation, and without groups;
- the cat runs along their channels, and nobody else reads them;
- their weights have one type.

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
from ...ir.rewrite import Call, Refused, Replacement, Rule
from ..base import Pass
from ..fold.affine import uses, value
from ..fold.linear_ops import is_linear_op
from .emit import emit
from .expressions import Expressions, space_of

aten = torch.ops.aten


@dataclass(frozen=True)
class MergeParallel(Pass):
    """Stack the weights of operators whose outputs are concatenated."""

    name: ClassVar[str] = "merge_parallel"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at each cat."""
        return (("merge_parallel", merge),)


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
