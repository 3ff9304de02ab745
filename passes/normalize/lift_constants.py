"""lift_constants: tensors made from numbers are constants of the program.

    zeros(shape) == expand(@constant, shape);   arange(n) == @constant;   full_like(x, c) == expand(@constant, x.shape)

Conditions:
- the op reads no value: at most the shape and dtype of its operand, which are fixed;
- a tensor of equal elements is stored as one element and expanded.

Before:
    program(%x: f32[2, 3]) {
      %a: f32[2, 3] = zeros_like(%x)
      %i: i64[3] = arange(3)
      %y: f32[2, 3] = add.Tensor(%a, %i)
      return %y
    }

After:
    program(%x: f32[2, 3]) {
      @constant: f32[] = 0.0
      @constant_1: i64[3] = [0, 1, 2]
      %expand: f32[2, 3] = expand(@constant, [2, 3])
      %y: f32[2, 3] = add.Tensor(%expand, @constant_1)
      return %y
    }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.ops import family
from ...ir.program import Program
from ...ir.rules import Weight
from .spelling import OpPass, Verdict, aten, call, replace_by, value_of


@dataclass(frozen=True)
class LiftConstants(OpPass):
    """Compute tensors that depend on no value."""

    name: ClassVar[str] = "lift_constants"

    def respell(self, node: fx.Node, program: Program) -> Verdict:
        """The tensor itself, or one element of it expanded."""
        if node.op != "call_function" or family(node) != "constant":
            return None
        target: Any = node.target
        args, kwargs = fx.map_arg((node.args, node.kwargs), _stand_in)
        with torch.no_grad():
            tensor: torch.Tensor = target(*args, **{k: v for k, v in kwargs.items() if k != "pin_memory"})
        tensor = tensor.contiguous()
        if tensor.dim() and tensor.numel() > 1 and bool((tensor == tensor.reshape(-1)[0]).all()):
            element = tensor.reshape(-1)[0].clone()
            return replace_by(node, call(aten.expand.default, Weight("constant", element), list(tensor.shape)))
        return replace_by(node, Weight("constant", tensor))


def _stand_in(node: fx.Node) -> torch.Tensor:
    """A tensor of the operand's shape and dtype, whose values are not read."""
    return torch.zeros(value_of(node).shape, dtype=value_of(node).dtype)
