"""A pass of one's own: relu(relu(x)) == relu(x), as a pure rule, with its report.

python examples/write_a_pass.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

import planish
from planish.ir.program import Program
from planish.ir.rewrite import Refused, Replacement, Rule
from planish.passes.base import Numerics, Pass
from planish.passes.pipelines import NORMALIZE

RELU = torch.ops.aten.relu.default


def merge_relus(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """The outer of two relus does nothing."""
    if node.target is not RELU:
        return None  # no candidate
    inner = node.args[0]
    assert isinstance(inner, fx.Node)
    if inner.target is not RELU:
        return Refused("its input is no relu", at=node)
    return Replacement({node: inner})


@dataclass(frozen=True)
class MergeRelus(Pass):
    """Drop a relu of a relu."""

    name: ClassVar[str] = "merge_relus"
    numerics: ClassVar[Numerics] = Numerics.EXACT

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule."""
        return (("merge_relus", merge_relus),)


def main() -> None:
    """Run it after normalization; `verify` checks the rewrite in float64."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.ReLU()).eval()
    program = planish.rewrite(model, (torch.randn(1, 4),), passes=[*NORMALIZE, MergeRelus()], verify=True)
    print(program)
    last = program.report[-1]
    print(f"{last.name}: applied at {last.applied[0].layers}, refused at {last.refused[0].layers}")


if __name__ == "__main__":
    main()
