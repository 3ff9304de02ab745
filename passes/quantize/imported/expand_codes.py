"""expand_codes: values that stand on codes are computed in float, for code that is not of integers.

    rounded(x) == dequantize(quantize(x))

Before:
    program(%x: f32[1, 2]) {
      %y: f32[1, 2] = planish::rounded(%x, 0.5, 3, 0, 255)
      return %y
    }

After:
    program(%x: f32[1, 2]) {
      @scale: f32[1] = [0.5]
      %quantize: u8[1, 2] = planish::quantize(%x, 0.5, 3, 0, 255, torch.uint8)
      %dequantize: f32[1, 2] = planish::dequantize(%quantize, @scale, 3)
      return %dequantize
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
from ....ir.rules import Call, Replacement, Rule, Weight
from ...base import Numerics, Pass

planish = torch.ops.planish


def _expanded(node: fx.Node, program: Program) -> Replacement | None:
    """Both steps."""
    if integer_name(node) != "rounded":
        return None
    given: Any = node.args
    x, scale, zero, low, high = given
    codes = Call(planish.quantize.default, (x, scale, zero, low, high, torch.uint8))
    held = Weight("scale", torch.tensor([scale], dtype=torch.float32).reshape([1] if x.meta["val"].dim() else []))
    return Replacement({node: Call(planish.dequantize.default, (codes, held, zero))})


@dataclass(frozen=True)
class ExpandCodes(Pass):
    """Quantize and dequantize what stands on codes."""

    name: ClassVar[str] = "expand_codes"
    requires: ClassVar[Stage] = Stage.CAPTURED
    numerics: ClassVar[Numerics] = Numerics.EXACT

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One."""
        return (("expand_codes", _expanded),)
