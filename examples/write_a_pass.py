"""A pass of one's own: x * sigmoid(x) == silu(x), as a pure rule, with its report.

python examples/write_a_pass.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

import planish
from planish.ir.match import Failed, Op, X, match
from planish.ir.program import Program
from planish.ir.rules import Call, Refused, Replacement, Rule
from planish.passes.base import Pass
from planish.passes.pipelines import NORMALIZE

aten = torch.ops.aten
GATED = Op(aten.mul.Tensor, X("x"), Op(aten.sigmoid.default, X("gate"), single_user=True))


def recognize_silu(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Replace x * sigmoid(x)."""
    found = match(GATED, node)
    if isinstance(found, Failed):
        return None  # no candidate
    if found["x"] is not found["gate"]:
        return Refused("the value and its gate differ", at=node)
    return Replacement({node: Call(aten.silu.default, (found["x"],))}, covers=found.nodes[1:])


@dataclass(frozen=True)
class RecognizeSilu(Pass):
    """One operator instead of two."""

    name: ClassVar[str] = "recognize_silu"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule."""
        return (("recognize_silu", recognize_silu),)


class Net(nn.Module):
    """One product that is a silu, and one that is not."""

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return x * torch.sigmoid(x) + x * torch.sigmoid(gate)


if __name__ == "__main__":
    inputs = torch.randn(1, 4), torch.randn(1, 4)
    program = planish.rewrite(Net().eval(), inputs, passes=[*NORMALIZE, RecognizeSilu()], verify=True)
    print(program)
    for site in program.report[-1].applied + program.report[-1].refused:
        print(f"{site.rule} at {site.node}: {site.reason or 'applied'}")
