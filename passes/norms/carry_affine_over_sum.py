"""carry_affine_over_sum: an affine in front of a residual sum goes behind it, into a new basis of the stream.

    n = s x + t;  y = n + f  ==  s (x + (f + t) / s)          and readers of n take s and t into their weights

In a post-norm network each batch norm or unified norm feeds both the next branch and the residual sum. Carried over the
sum it meets the next norm, becomes one with it, and is carried on: the norms of a whole stream end in the weights of
its writers, its readers and the last layer.

Conditions:
- every reader of the affine takes it as `fold_affine_forward` has it, or is a sum whose other term takes the inverse
  into weights, as `fold_affine_backward` has it;
- no channel has scale zero, and no scale leaves 2^-24 to 2^24 (2^-8 to 2^8 for 16-bit floats): a stream in units that
  far apart would lose range.

Before:
    program(%x: f32[1, 2]) normalized {
      @bn.weight: f32[2] = [1.0, 2.0]
      @bn.bias: f32[2] = [0.5, 0.0]
      @bn.mean: f32[2] = [1.0, -1.0]
      @bn.var: f32[2] = [0.25, 4.0]
      @fc.weight: f32[2, 2] = [[1.0, 0.0], [3.0, 1.0]]
      @out.weight: f32[2, 2] = [[4.0, 0.0], [0.0, 1.0]]
      %relu: f32[1, 2] = relu(%x)
      %bn: f32[1, 2] = batch_norm(%relu, @bn.weight, @bn.bias, @bn.mean, @bn.var, false, 0.1, 0.0, false)   # bn
      %fc: f32[1, 2] = linear(%bn, @fc.weight, none)   # fc
      %relu_1: f32[1, 2] = relu(%fc)
      %out: f32[1, 2] = linear(%relu_1, @out.weight, none)   # out
      %add: f32[1, 2] = add.Tensor(%bn, %out)
      %exp: f32[1, 2] = exp(%add)
      return %exp
    }

After:
    program(%x: f32[1, 2]) normalized {
      @fc.weight_1: f32[2, 2] = [[2.0, 0.0], [6.0, 1.0]]
      @fc.bias: f32[2] = [-1.5, -3.5]
      @out.weight_1: f32[2, 2] = [[2.0, 0.0], [0.0, 1.0]]
      @out.bias: f32[2] = [-0.75, 1.0]
      @bn.scale: f32[2] = [2.0, 1.0]
      %relu: f32[1, 2] = relu(%x)
      %linear: f32[1, 2] = linear(%relu, @fc.weight_1, @fc.bias)   # fc, bn
      %relu_1: f32[1, 2] = relu(%linear)
      %linear_1: f32[1, 2] = linear(%relu_1, @out.weight_1, @out.bias)   # out
      %add_1: f32[1, 2] = add.Tensor(%relu, %linear_1)
      %mul: f32[1, 2] = mul.Tensor(%add_1, @bn.scale)   # bn
      %exp: f32[1, 2] = exp(%mul)
      return %exp
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.program import Program
from ...ir.rules import Call, Expr, Refused, Replacement, Rule
from ..base import Pass
from ..fold import fold_affine_backward
from ..fold.affine import Affine, affine, chain, ends_chain, value
from ..fold.fold_affine_backward import blocked
from ..fold.fold_affine_forward import Way, fold_forward
from ..fold.linear_ops import named
from ..fold.lower_batch_norm import normal_form
from ..reparameterize.expressions import is_sum

aten = torch.ops.aten

RANGE = {torch.float16: 8, torch.bfloat16: 8}
"""Binary orders of magnitude that a scale may be away from one, where it is not 24."""


@dataclass(frozen=True)
class CarryAffineOverSum(Pass):
    """Move affines of a residual stream behind its sums, and fold them forward where that now works."""

    name: ClassVar[str] = "carry_affine_over_sum"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """Two rules: what one carries, the other may fold."""
        return (("carry_affine_over_sum", carry), ("fold_affine_forward", fold_forward))


def carry(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Carry the affine run that ends at `node` over the sums that read it."""
    found = chain(node, program)
    if found is None or found[2].axis is None or not ends_chain(node, program):
        return None
    ops, source, map_ = found
    way = _Carrying(program, [node])
    reason = blocked(node, source, map_) or way.push(node, source, map_)
    if not way.sums:
        return None  # nothing to carry it over: `fold_affine_forward` says why it stays
    reason = reason or out_of_range(map_, value(node).dtype)
    if reason:
        return Refused(reason, node)
    return Replacement(way.values, covers=(*ops, *way.covers))


def out_of_range(map_: Affine, dtype: torch.dtype) -> str | None:
    """Return why a scale may not become the unit of a stream."""
    size = map_.scale.abs()
    limit = 2.0 ** RANGE.get(dtype, 24)
    if bool((size == 0).any()):
        return "a channel has scale zero, which no change of units undoes"
    if float(size.max()) > limit or float(size.min()) < 1 / limit:
        return f"its scales reach from {float(size.min()):.3g} to {float(size.max()):.3g}, which would cost range"
    return None


@dataclass
class _Carrying(Way):
    """The way on that also leads over sums."""

    sums: list[fx.Node] = field(default_factory=list)

    def reader(self, user: fx.Node, node: fx.Node, now: Expr, map_: Affine) -> str | None:
        """A sum takes the shift into its other term, and the scale behind it."""
        if not is_sum(user):
            return super().reader(user, node, now, map_)
        self.sums.append(user)
        if user.all_input_nodes.count(node) > 1 or user.args[0] is user.args[1]:
            return f"{named(user)} reads it twice"
        if map_.axis is None or bool((map_.scale == 0).any()):
            return "a channel has scale zero, which no change of units undoes"
        first = user.args[0] is node
        other: Any = user.args[1 if first else 0]
        sign = 1.0 if user.target is aten.add.Tensor else -1.0
        inverse = affine(map_.axis, 1 / map_.scale, sign * map_.shift / map_.scale, map_.dtype)
        way = fold_affine_backward.Way(self.program, [user])
        term = way.absorb(other, inverse)
        if isinstance(term, str):
            return f"the other term of {named(user)} cannot take its inverse: {term}"
        self.covers += [user, *way.covers]
        self.values |= way.siblings
        total = Call(user.target, (now, term) if first else (term, now), of=(user,))
        scale = affine(map_.axis, map_.scale, 0.0, map_.dtype)
        self.values[user] = _of(normal_form(total, value(user).dtype, scale, user, self.ops), total, self.ops)
        return None


def _of(expr: Expr, inner: Call, nodes: Sequence[fx.Node]) -> Expr:
    """The calls around `inner` as ones that stand for these nodes."""
    if not isinstance(expr, Call) or expr is inner:
        return expr
    return replace(expr, args=(_of(expr.args[0], inner, nodes), *expr.args[1:]), of=tuple(nodes))
