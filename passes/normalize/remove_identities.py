"""remove_identities: arithmetic that gives every value back, bit for bit.

    x * 1 == x / 1 == x - 0 == x + (-0.0) == x ** 1 == -(-x) == x;   relu(relu(x)) == relu(x);   where(c, x, x) == x

Conditions:
- dtype and shape stay as they are;
- x + 0.0 is *not* x (it turns -0.0 into 0.0), nor is x - (-0.0); on integers both are.

Before:
    program(%x: f32[2, 3]) {
      %a: f32[2, 3] = mul.Tensor(%x, 1.0)
      %b: f32[2, 3] = sub.Tensor(%a, 0.0)
      %c: f32[2, 3] = add.Tensor(%b, 0.0)
      return %c
    }

After:
    program(%x: f32[2, 3]) {
      %c: f32[2, 3] = add.Tensor(%x, 0.0)
      return %c
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.match import equal_literals
from ...ir.ops import is_call
from ...ir.program import Program
from .spelling import OpPass, Respell, Verdict, args_of, aten, replace_by, shape_of, value_of


def neutral(integer: int, floating: float) -> Respell:
    """A second operand that changes nothing."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        x, number = args_of(node)[:2]
        if not isinstance(x, fx.Node) or isinstance(number, fx.Node) or not _same_type(x, node):
            return None
        if value_of(x).dtype.is_floating_point:
            exact = equal_literals(float(number), floating)
        else:
            exact = number == integer and not isinstance(number, bool)
        return replace_by(node, x) if exact else None

    return respell


def twice(node: fx.Node, program: Program) -> Verdict:
    """f(f(x)) == x."""
    inner = args_of(node)[0]
    return replace_by(node, args_of(inner)[0]) if is_call(inner, node.target) else None


def again(node: fx.Node, program: Program) -> Verdict:
    """f(f(x)) == f(x)."""
    inner = args_of(node)[0]
    return replace_by(node, inner) if is_call(inner, node.target) else None


def same_choice(node: fx.Node, program: Program) -> Verdict:
    """Either way the same."""
    _, left, right = args_of(node)
    return replace_by(node, left) if left is right and _same_type(left, node) else None


def same_operand(node: fx.Node, program: Program) -> Verdict:
    """The larger of a value and itself."""
    left, right = args_of(node)
    return replace_by(node, left) if left is right else None


def _same_type(x: Any, node: fx.Node) -> bool:
    return value_of(x).dtype == value_of(node).dtype and shape_of(x) == shape_of(node)


TABLE: Mapping[Any, Respell] = {
    aten.mul.Tensor: neutral(1, 1.0),
    aten.div.Tensor: neutral(1, 1.0),
    aten.sub.Tensor: neutral(0, 0.0),
    aten.add.Tensor: neutral(0, -0.0),
    aten.pow.Tensor_Scalar: neutral(1, 1.0),
    **dict.fromkeys((aten.neg.default, aten.bitwise_not.default), twice),
    **dict.fromkeys((aten.relu.default, aten.abs.default, aten.floor.default, aten.ceil.default), again),
    **dict.fromkeys((aten.round.default, aten.trunc.default), again),
    aten.where.self: same_choice,
    **dict.fromkeys((aten.maximum.default, aten.minimum.default), same_operand),
}


@dataclass(frozen=True)
class RemoveIdentities(OpPass):
    """Drop arithmetic that changes no bit."""

    name: ClassVar[str] = "remove_identities"
    table: ClassVar[Mapping[Any, Respell]] = TABLE
