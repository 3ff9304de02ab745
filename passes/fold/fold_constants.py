"""fold_constants: compute once what depends on weights alone.

    f(w1, w2, ...)  ==  w'

Weight standardization, weight and spectral norm, masks, gathers of position biases, reshaped or transposed
weights, low-rank deltas: whatever expression has only weights as leaves becomes one weight.

Conditions:
- every op in the expression is deterministic and changes nothing in place;
- floating-point arithmetic is done in float64 and cast once to the type the node had, integer ops and
  discrete decisions are exact in the model's own types;
- a result that merely repeats smaller data (expand, repeat, full) is stored small and broadcast: storing it
  whole is refused, or undone by an `expand` of the part that is not repeated.

Before:
    program(%x: f32[1, 2]) normalized {
      @direction: f32[2, 2] = [[3.0, 4.0], [0.0, 2.0]]
      @length: f32[2, 1] = [[10.0], [3.0]]
      %norm: f32[2, 1] = linalg_vector_norm(@direction, 2, [1], true)
      %unit: f32[2, 2] = div.Tensor(@direction, %norm)
      %weight: f32[2, 2] = mul.Tensor(%unit, @length)
      %y: f32[1, 2] = linear(%x, %weight, none)
      return %y
    }

After:
    program(%x: f32[1, 2]) normalized {
      @direction_1: f32[2, 2] = [[6.0, 8.0], [0.0, 3.0]]
      %y: f32[1, 2] = linear(%x, @direction_1, none)
      return %y
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from ...ir.program import Program
from ...ir.rules import Call, Refused, Replacement, Rule, Weight
from ..base import Pass
from .constants import Constants, evaluate

aten = torch.ops.aten

REPEATS_FROM = 4096
"""Elements below which a repeated constant is simply stored."""


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace every parameter-only expression by a weight."""

    name: ClassVar[str] = "fold_constants"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule; it remembers which nodes are constant."""
        constants = Constants()
        return (("fold_constants", lambda node, program: fold(node, program, constants)),)


def fold(node: fx.Node, program: Program, constants: Constants) -> Replacement | Refused | None:
    """Fold a constant node that something not constant reads."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor) or not constants.holds(node):
        return None
    if all(constants.holds(user) for user in node.users):
        return None
    fake = node.meta["val"]
    if _is_repeated_weight(node):
        return Refused(f"storing the repeats would take {_size(fake)} where a broadcast does", node)
    result = evaluate(node, program).to(fake.dtype)
    small = distinct(result) if result.numel() > REPEATS_FROM else result
    if small.numel() * 2 > result.numel():
        return Replacement({node: Weight(_name(node), _own(result))})
    weight = Weight(_name(node), _own(small))
    return Replacement({node: Call(aten.expand.default, (weight, list(result.shape)))})


def _own(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor that holds no larger storage alive."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def distinct(tensor: Tensor) -> Tensor:
    """Return the tensor with every dimension along which it only repeats itself cut to one."""
    bits = tensor if tensor.dtype == torch.bool else tensor.contiguous().view(_BITS[tensor.element_size()])
    for dim, size in enumerate(tensor.shape):
        if size > 1 and torch.equal(bits, bits.narrow(dim, 0, 1).expand_as(bits)):
            bits, tensor = bits.narrow(dim, 0, 1), tensor.narrow(dim, 0, 1)
    return tensor


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _is_repeated_weight(node: fx.Node) -> bool:
    """Say whether a node is an `expand` of a weight that storing would make much larger."""
    source: Any = node.args[0] if node.target is aten.expand.default else None
    if source is None or source.op != "get_attr":
        return False
    size: int = node.meta["val"].numel()
    return size > REPEATS_FROM and size >= 2 * source.meta["val"].numel()


def _size(tensor: Tensor) -> str:
    return f"{tensor.numel() * tensor.element_size()} bytes"


def _name(node: fx.Node) -> str:
    """Name the result after the first weight it is made of."""
    todo = [node]
    while todo:
        top = todo.pop()
        if top.op == "get_attr":
            return str(top.target)
        todo += reversed(top.all_input_nodes)
    return node.name
