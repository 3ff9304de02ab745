"""fold_affine_forward: a per-channel affine goes into the weights that read it.

    conv(s x + t; W, b)  ==  conv(x; W s, b + sum_in W t)       where no zero padding enters the sum

What `fold_affine_backward` had to leave (a batch norm after a sum, a pooling or a non-linear op) is exact to
fold forward if only linear ops read it, directly or behind permute, reshape, slice, expand and averages.

Conditions:
- every reader is a convolution or linear layer along the same axis, and takes the affine as its input;
- where there is a shift, no reader pads with zeros and none is a transposed convolution;
- scale and shift are finite, and the weights' type holds what they were given in.

Before:
    program(%x: f32[1, 2]) normalized {
      @bn.weight: f32[2] = [1.0, 2.0]
      @bn.bias: f32[2] = [0.5, 0.0]
      @bn.mean: f32[2] = [1.0, -1.0]
      @bn.var: f32[2] = [0.25, 4.0]
      @fc.weight: f32[1, 2] = [[1.0, 3.0]]
      @fc.bias: f32[1] = [1.0]
      %relu: f32[1, 2] = relu(%x)
      %bn: f32[1, 2] = batch_norm(%relu, @bn.weight, @bn.bias, @bn.mean, @bn.var, false, 0.1, 0.0, false)   # bn
      %fc: f32[1, 1] = linear(%bn, @fc.weight, @fc.bias)   # fc
      return %fc
    }

After:
    program(%x: f32[1, 2]) normalized {
      @fc.weight_1: f32[1, 2] = [[2.0, 3.0]]
      @fc.bias_1: f32[1] = [2.5]
      %relu: f32[1, 2] = relu(%x)
      %linear: f32[1, 1] = linear(%relu, @fc.weight_1, @fc.bias_1)   # fc, bn
      return %linear
    }
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.program import Program
from ...ir.rewrite import Call, Expr, Refused, Replacement, Rule
from ..base import Pass
from .affine import Affine, affine, chain, end_of_chain, ends_chain, has_batch_norm, value
from .fold_affine_backward import blocked
from .linear_ops import before, channel_axis, is_linear_op, named
from .views import average, through_reshape

aten = torch.ops.aten


@dataclass(frozen=True)
class FoldAffineForward(Pass):
    """Fold affine runs into all the convolutions and linear layers that read them."""

    name: ClassVar[str] = "fold_affine_forward"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at the last op of each affine run."""
        return (("fold_affine_forward", fold_forward),)


def fold_forward(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Fold the affine run that ends at `node` into its readers."""
    if not ends_chain(node, program):
        if node.target is not aten.batch_norm.default:
            return None  # reported at the end of the run; batch norms are reported one by one
        verdict = fold_forward(end_of_chain(node, program), program)
        return Refused(verdict.reason, node) if isinstance(verdict, Refused) else None
    found = chain(node, program)
    if found is None:
        return None
    ops, source, map_ = found
    way = _Way(program)
    reason = blocked(node, source, map_) or way.push(node, source, map_)
    if reason is None and not way.values:
        return None  # only dead views read it
    if reason is None:
        return Replacement(way.values, covers=(*ops, *way.covers))
    return Refused(reason, node) if map_.axis is not None or has_batch_norm(ops) else None


@dataclass
class _Way:
    """The way on from an affine to the weights that read it."""

    program: Program
    values: dict[fx.Node, Expr] = field(default_factory=dict)
    covers: list[fx.Node] = field(default_factory=list)

    def push(self, node: fx.Node, now: Expr, map_: Affine) -> str | None:
        """Let every user of `node` read `now` instead, where node == map_(now); returns why one cannot."""
        for user in node.users:
            if user.op == "output":
                return "the program returns it"
            if not user.args or user.args[0] is not node or user.all_input_nodes.count(node) > 1:
                return f"its reader {named(user)} is not linear in it"
            reason = self._weights(user, now, map_) if is_linear_op(user) else self._through(user, now, map_)
            if reason:
                return reason
        return None

    def _weights(self, user: fx.Node, now: Expr, map_: Affine) -> str | None:
        axis = channel_axis(user)
        if map_.axis not in (None, axis):
            return f"it lies along axis {map_.axis} of the input of {named(user)}, whose channels are axis {axis}"
        call = before(user, map_, self.program)
        if isinstance(call, str):
            return call
        self.values[user] = Call(call.op, (now, *call.args[1:]), call.kwargs)
        return None

    def _through(self, user: fx.Node, now: Expr, map_: Affine) -> str | None:
        step = STEPS.get(user.target)
        if step is None:
            return f"its reader {named(user)} is not linear in it"
        moved = step(user, map_)
        if moved is None:
            return f"its reader {named(user)} does not keep the channel axis whole"
        self.covers.append(user)
        return self.push(user, Call(user.target, (now, *user.args[1:]), user.kwargs), moved)


def _permute(node: fx.Node, map_: Affine) -> Affine:
    dims: Any = node.args[1]
    return map_ if map_.axis is None else map_.on_axis(dims.index(map_.axis))


def _reshape(node: fx.Node, map_: Affine) -> Affine | None:
    source: Any = node.args[0]
    return through_reshape(map_, value(source).shape, value(node).shape)


def _expand(node: fx.Node, map_: Affine) -> Affine:
    source: Any = node.args[0]
    return map_ if map_.axis is None else map_.on_axis(map_.axis + value(node).dim() - value(source).dim())


def _slice(node: fx.Node, map_: Affine) -> Affine:
    if map_.axis != node.args[1]:
        return map_
    picked: Any = slice(*node.args[2:5])
    return affine(map_.axis, map_.scale[picked], map_.shift[picked], map_.dtype)


def _mean(node: fx.Node, map_: Affine) -> Affine | None:
    source: Any = node.args[0]
    dims: Any = node.args[1]
    keep: Any = node.args[2]
    rank = value(source).dim()
    gone = {d % rank for d in dims} if dims else set(range(rank))
    if map_.axis is None:
        return map_
    if map_.axis in gone:
        return None
    return map_ if keep else map_.on_axis(map_.axis - sum(d < map_.axis for d in gone))


def _adaptive_average(node: fx.Node, map_: Affine) -> Affine | None:
    source: Any = node.args[0]
    spatial = len(node.args[1])  # type: ignore[arg-type]
    return map_ if map_.axis is None or map_.axis < value(source).dim() - spatial else None


STEPS: dict[Any, Callable[[fx.Node, Affine], Affine | None]] = {
    aten.permute.default: _permute,
    aten.reshape.default: _reshape,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.mean.dim: _mean,
    aten.avg_pool1d.default: average,
    aten.avg_pool2d.default: average,
    aten.avg_pool3d.default: average,
    aten.adaptive_avg_pool1d.default: _adaptive_average,
    aten.adaptive_avg_pool2d.default: _adaptive_average,
}
