"""carry_scale_over_product: a gain behind a gated layer goes into the layer, and what its gate reads stays as it was.

    s (y * g)  ==  (s y) * g          and every other reader of y takes 1 / s into its weights

Squeeze and excitation reads the layer that it gates. A gain behind it (a skip gain, the scales of networks without
norms, a layer scale) can still become part of that layer if the gate's first layer takes its inverse.

Conditions:
- one factor is a convolution or linear layer that takes the gain; its other readers take the inverse as
  `fold_affine_forward` has it, at no operation more;
- there is no shift, no channel has scale zero, and no scale leaves 2^-24 to 2^24 (2^-8 to 2^8 for 16-bit floats).

Before:
    program(%x: f32[1, 2]) normalized {
      @fc.weight: f32[2, 2] = [[1.0, 2.0], [3.0, 4.0]]
      @gate.weight: f32[2, 2] = [[2.0, 0.0], [4.0, 6.0]]
      %fc: f32[1, 2] = linear(%x, @fc.weight, none)   # fc
      %gate: f32[1, 2] = linear(%fc, @gate.weight, none)   # gate
      %sigmoid: f32[1, 2] = sigmoid(%gate)
      %mul: f32[1, 2] = mul.Tensor(%fc, %sigmoid)
      %mul_1: f32[1, 2] = mul.Tensor(%mul, 2.0)
      return %mul_1
    }

After:
    program(%x: f32[1, 2]) normalized {
      @fc.weight_1: f32[2, 2] = [[2.0, 4.0], [6.0, 8.0]]
      @gate.weight_1: f32[2, 2] = [[1.0, 0.0], [2.0, 3.0]]
      %linear: f32[1, 2] = linear(%x, @fc.weight_1, none)   # fc
      %linear_1: f32[1, 2] = linear(%linear, @gate.weight_1, none)   # gate
      %sigmoid: f32[1, 2] = sigmoid(%linear_1)
      %mul_2: f32[1, 2] = mul.Tensor(%linear, %sigmoid)
      return %mul_2
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.program import Program
from ...ir.rules import Call, Expr, Refused, Replacement, Rule
from ..base import Pass
from ..fold.affine import Affine, affine, chain, ends_chain, uses, value
from ..fold.fold_affine_backward import blocked
from ..fold.fold_affine_forward import Way
from ..fold.linear_ops import after, channel_axis, is_linear_op, named
from .carry_affine_over_sum import out_of_range

aten = torch.ops.aten


@dataclass(frozen=True)
class CarryScaleOverProduct(Pass):
    """Move gains in front of the products behind which they stand, into the layers that are gated."""

    name: ClassVar[str] = "carry_scale_over_product"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at the last op of each affine run."""
        return (("carry_scale_over_product", carry),)


def carry(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Carry the gain that ends at `node` over the product before it."""
    found = chain(node, program)
    if found is None or not ends_chain(node, program):
        return None
    ops, product, map_ = found
    if not _is_product(product) or bool(map_.shift.any()):
        return None
    reason = None
    for place, factor in enumerate(product.args[:2]):
        if isinstance(factor, fx.Node) and is_linear_op(factor) and value(factor).shape == value(product).shape:
            carried = _carried(node, product, place, ops, map_, program)
            if isinstance(carried, Replacement):
                return carried
            reason = carried
    return Refused(reason, node) if reason else None


def _is_product(node: fx.Node) -> bool:
    """Say whether a node multiplies two different computed values, and only the gain reads it."""
    if node.target is not aten.mul.Tensor or uses(node) > 1:
        return False
    left, right = node.args[:2]
    computed = all(isinstance(n, fx.Node) and n.op != "get_attr" for n in (left, right))
    return computed and left is not right


def _carried(
    node: fx.Node, product: fx.Node, place: int, ops: Sequence[fx.Node], map_: Affine, program: Program
) -> Replacement | str:
    """The factor at `place` with the gain in it, and its other readers with the inverse; or why not."""
    factor: Any = product.args[place]
    if reason := blocked(node, product, map_) or out_of_range(map_, value(node).dtype):
        return reason
    if map_.axis not in (None, channel_axis(factor)):
        return f"it lies along axis {map_.axis} of {named(factor)}, whose channels are axis {channel_axis(factor)}"
    call = after(factor, map_, program)
    if isinstance(call, str):
        return call
    call = replace(call, of=(factor, *ops))
    way = _Others(program, ops, free=True, product=product)
    if reason := way.push(factor, call, affine(map_.axis, 1 / map_.scale, 0.0, map_.dtype)):
        return f"another reader of {named(factor)} cannot take its inverse: {reason}"
    factors: list[Any] = list(product.args[:2])
    factors[place] = call
    way.values[node] = Call(product.target, tuple(factors), of=(product,))
    return Replacement(way.values, covers=(*ops, product, factor, *way.covers))


@dataclass
class _Others(Way):
    """The way on to all readers but the product."""

    product: fx.Node | None = None

    def reader(self, user: fx.Node, node: fx.Node, now: Expr, map_: Affine) -> str | None:
        """The product takes no inverse."""
        return None if user is self.product else super().reader(user, node, now, map_)
