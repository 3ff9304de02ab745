"""canonicalize_arguments: every call names all its arguments.

    f(x)  ==  f(x, default of the 2nd argument, ...)

Conditions:
- any call of a torch operator: positional arguments are filled in from the schema's defaults, keyword-only
  arguments that equal their default are dropped;
- nothing is computed differently, so nothing is refused.

Before:
    program(%x: f32[1, 4, 8]) {
      @w: f32[2, 4, 3]
      %conv1d: f32[1, 2, 6] = conv1d(%x, @w)
      %gelu: f32[1, 2, 6] = gelu(%conv1d, approximate="none")
      return %gelu
    }

After:
    program(%x: f32[1, 4, 8]) {
      @w: f32[2, 4, 3]
      %conv1d_1: f32[1, 2, 6] = conv1d(%x, @w, none, [1], [0], [1], 1)
      %gelu_1: f32[1, 2, 6] = gelu(%conv1d_1)
      return %gelu_1
    }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ...ir.program import Program
from .spelling import OpPass, Verdict, args_of, call, replace_by


@dataclass(frozen=True)
class CanonicalizeArguments(OpPass):
    """Fill in defaults and move keywords to their positions."""

    name: ClassVar[str] = "canonicalize_arguments"

    def respell(self, node: fx.Node, program: Program) -> Verdict:
        """The same call in full spelling."""
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            return None
        return replace_by(node, call(node.target, *args_of(node), **node.kwargs))
