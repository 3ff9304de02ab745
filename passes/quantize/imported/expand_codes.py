"""expand_codes: values that stand on codes are computed in float, for code that is not of integers.

    rounded(x) == scale · clamp(round(x / scale), low - zero, high - zero)

Before:
    program(%x: f32[1, 2]) {
      %y: f32[1, 2] = planish::rounded(%x, 0.5, 3, 0, 255)
      return %y
    }

After:
    program(%x: f32[1, 2]) {
      %div: f32[1, 2] = div.Tensor(%x, 0.5)
      %round: f32[1, 2] = round(%div)
      %clamp: f32[1, 2] = clamp(%round, -3, 252)
      %mul: f32[1, 2] = mul.Tensor(%clamp, 0.5)
      return %mul
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ....ir.ops import integer_name
from ....ir.program import Program, Stage
from ....ir.rules import Call, Replacement, Rule
from ...base import Numerics, Pass

aten = torch.ops.aten


def _expanded(node: fx.Node, program: Program) -> Replacement | None:
    """Codes less their zero point, times the scale."""
    if integer_name(node) != "rounded":
        return None
    given: Any = node.args
    x, scale, zero, low, high = given
    steps = Call(aten.round.default, (Call(aten.div.Tensor, (x, scale)),))
    return Replacement(
        {node: Call(aten.mul.Tensor, (Call(aten.clamp.default, (steps, low - zero, high - zero)), scale))}
    )


@dataclass(frozen=True)
class ExpandCodes(Pass):
    """Quantize and dequantize what stands on codes."""

    name: ClassVar[str] = "expand_codes"
    requires: ClassVar[Stage] = Stage.CAPTURED
    numerics: ClassVar[Numerics] = Numerics.EXACT

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One."""
        return (("expand_codes", _expanded),)
