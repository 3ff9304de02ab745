"""unstack_means: the mean or sum over values that were stacked for it becomes a plain sum.

    mean(stack([a, b, ...]))  ==  (a + b + ...) / n

So that heads whose outputs are averaged (several dropouts over one head, distillation and class heads) are a sum of
linear operators, which `merge_branches` makes one.

Conditions:
- the mean runs over the axis of the cat and no other, and every part has extent one there;
- at most 64 parts, which nobody else reads stacked.

Before:
    program(%a: f32[2, 3], %b: f32[2, 3]) normalized {
      %p: f32[1, 2, 3] = reshape(%a, [1, 2, 3])
      %q: f32[1, 2, 3] = reshape(%b, [1, 2, 3])
      %s: f32[2, 2, 3] = cat([%p, %q], 0)
      %y: f32[2, 3] = mean.dim(%s, [0], false)
      return %y
    }

After:
    program(%a: f32[2, 3], %b: f32[2, 3]) normalized {
      %add: f32[2, 3] = add.Tensor(%a, %b)
      %mul: f32[2, 3] = mul.Tensor(%add, 0.5)
      return %mul
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.program import Program
from ...ir.rules import Call, Expr, Refused, Replacement, Rule
from ..base import Pass
from ..fold.affine import uses, value

aten = torch.ops.aten

MOST = 64
"""Parts of one stack."""


@dataclass(frozen=True)
class UnstackMeans(Pass):
    """Write means over stacked values as sums."""

    name: ClassVar[str] = "unstack_means"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at each mean and sum."""
        return (("unstack_means", unstack),)


def unstack(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Sum up the parts of a stack."""
    if node.target not in (aten.mean.dim, aten.sum.dim_IntList) or node.kwargs:
        return None
    stack, dims = node.args[:2]
    if not isinstance(stack, fx.Node) or stack.target is not aten.cat.default or not dims:
        return None
    parts: Any = stack.args[0]
    axis: Any = stack.args[1]
    rank = value(stack).dim()
    if [d % rank for d in dims] != [axis] or any(value(p).shape[axis] != 1 for p in parts):  # type: ignore[operator,union-attr]
        return None
    if uses(stack) > 1 or len(parts) > MOST or not value(node).is_floating_point():
        return Refused("others read the stack, or it has too many parts", node)
    shape = list(value(node).shape)
    total = _without_axis(parts[0], shape)
    for part in parts[1:]:
        total = Call(aten.add.Tensor, (total, _without_axis(part, shape)))
    if node.target is aten.mean.dim:
        total = Call(aten.mul.Tensor, (total, 1.0 / len(parts)))
    return Replacement({node: total}, covers=(stack,))


def _without_axis(part: fx.Node, shape: list[int]) -> Expr:
    """The part in the shape of the result: what was reshaped to be stacked as it was before."""
    if list(value(part).shape) == shape:
        return part
    source: Any = part.args[0] if part.target is aten.reshape.default else None
    if source is not None and list(value(source).shape) == shape:
        return source  # type: ignore[no-any-return]
    return Call(aten.reshape.default, (part, shape))
