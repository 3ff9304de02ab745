"""remove_dropout: dropout does nothing outside training.

    dropout(x, p, train=False) == x

Conditions:
- `train` is false or p is 0; anything else is refused, since it is random.

Before:
    program(%x: f32[2, 3]) {
      %d: f32[2, 3] = dropout(%x, 0.5, false)
      %y: f32[2, 3] = relu(%d)
      return %y
    }

After:
    program(%x: f32[2, 3]) {
      %y: f32[2, 3] = relu(%x)
      return %y
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.program import Program
from ...ir.rules import Refused
from .spelling import OpPass, Respell, Verdict, args_of, aten, first_result_only, replace_by


def dropout(node: fx.Node, program: Program) -> Verdict:
    """The operand, outside training."""
    x, probability, train = args_of(node)
    if train and probability:
        return Refused("it is random: the model is in train mode here", node)
    return replace_by(node, x)


def native_dropout(node: fx.Node, program: Program) -> Verdict:
    """The first of two results, outside training."""
    x, probability, train = args_of(node)
    if train is not False and probability:
        return Refused("it is random: the model is in train mode here", node)
    return first_result_only(node, x, "mask")


TABLE: Mapping[Any, Respell] = {
    aten.dropout.default: dropout,
    aten.feature_dropout.default: dropout,
    aten.alpha_dropout.default: dropout,
    aten.feature_alpha_dropout.default: dropout,
    aten.native_dropout.default: native_dropout,
}


@dataclass(frozen=True)
class RemoveDropout(OpPass):
    """Drop dropout."""

    name: ClassVar[str] = "remove_dropout"
    table: ClassVar[Mapping[Any, Respell]] = TABLE
