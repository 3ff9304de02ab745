"""remove_duplicates: the same call on the same values is made once (common subexpressions).

    y = f(x), z = f(x)   ==   y = f(x), z = y

Conditions:
- op, arguments and their types are identical, and the op is pure in the op table (nothing random, no effect);
- the earlier of the two stays.

Before:
    program(%x: f32[2, 3]) {
      %a: f32[2, 3] = exp(%x)
      %b: f32[2, 3] = exp(%x)
      %c: f32[2, 3] = add.Tensor(%a, %b)
      return %c
    }

After:
    program(%x: f32[2, 3]) {
      %a: f32[2, 3] = exp(%x)
      %c: f32[2, 3] = add.Tensor(%a, %a)
      return %c
    }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ...ir.ops import is_pure
from ...ir.program import Program
from ...ir.rules import Replacement
from .spelling import OpPass, Verdict, same_arguments


@dataclass(frozen=True)
class RemoveDuplicates(OpPass):
    """Make equal calls once."""

    name: ClassVar[str] = "remove_duplicates"

    def respell(self, node: fx.Node, program: Program) -> Verdict:
        """An earlier equal call among the readers of its least read operand."""
        operands = node.all_input_nodes
        if not operands or not is_pure(node):
            return None
        for other in min((operand.users for operand in operands), key=len):
            if other < node and other.target is node.target and same_arguments(other, node):
                return Replacement({node: other})
        return None
