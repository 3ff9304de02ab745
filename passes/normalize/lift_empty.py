"""lift_empty: a value without elements depends on nothing, so it is a constant.

    x with 0 in x.shape  ==  @empty;      cat([x, y]) == y  where x has no elements

Conditions:
- functional ops only, which programs hold anyway: whatever an op does to no elements leaves none;
- an operand of a `cat` goes where the dtypes are equal, so that it had no say in the result's.

What reads such values (a sum over nothing, a product along nothing) is then an expression of constants, and no
kernel ever meets an extent of 0.

Before:
    program(%x: f32[3, 0], %y: f32[3, 2]) {
      %a: f32[3, 0] = mul.Tensor(%x, 2.0)
      %b: f32[3, 2] = cat([%a, %y], 1)
      %c: f32[3] = sum.dim_IntList(%x, [1])
      return (%b, %c)
    }

After:
    program(%x: f32[3, 0], %y: f32[3, 2]) {
      @empty: f32[3, 0] = [[], [], []]
      %sum_1: f32[3] = sum.dim_IntList(@empty, [1])
      return (%y, %sum_1)
    }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.program import Program
from ...ir.rules import Call, Weight
from .spelling import OpPass, Verdict, args_of, aten, call, is_tensor, replace_by, value_of


@dataclass(frozen=True)
class LiftEmpty(OpPass):
    """Make constants of values without elements."""

    name: ClassVar[str] = "lift_empty"

    def respell(self, node: fx.Node, program: Program) -> Verdict:
        """The constant itself, a shorter `cat`, or the call with constants for such operands."""
        if node.op != "call_function":
            return None
        if _is_empty(node):
            return replace_by(node, _constant(node))
        if node.target is aten.cat.default and (verdict := _shorter(node)) is not None:
            return verdict
        lifted: dict[fx.Node, Any] = {
            u: _constant(u) for u in node.all_input_nodes if u.op != "get_attr" and _is_empty(u)
        }
        if not lifted:
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda operand: lifted.get(operand, operand))
        return replace_by(node, Call(node.target, args, kwargs))


def _shorter(node: fx.Node) -> Verdict:
    """A `cat` without the operands that have no elements."""
    parts, dim = args_of(node)
    kept = [part for part in parts if not _is_empty(part)]
    if len(kept) == len(parts) or any(value_of(part).dtype != value_of(node).dtype for part in parts):
        return None
    return replace_by(node, kept[0] if len(kept) == 1 else call(aten.cat.default, kept, dim))


def _is_empty(node: fx.Node) -> bool:
    return is_tensor(node) and value_of(node).numel() == 0


def _constant(node: fx.Node) -> Weight:
    return Weight("empty", torch.zeros(value_of(node).shape, dtype=value_of(node).dtype))
