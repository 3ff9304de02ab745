"""fold_affine_forward: a per-channel affine goes into the weights that read it.

    conv(s x + t; W, b)  ==  conv(x; W s, b + sum_in W t)       where no zero padding enters the sum

What `fold_affine_backward` had to leave (a batch norm after a sum, a pooling or a non-linear op) is exact to
fold forward if only linear ops read it, directly or behind permute, reshape, slice, expand, cat, averages and maxima.
So are the weight and bias of a layer norm, group norm or RMS norm. Positive scales go on behind a ReLU too; the shift
is then added in front of it, in units of the scale: relu(s x + t) == s relu(x + t / s).

Conditions:
- every reader is a convolution, a linear layer or another affine along the same axis, and reads it as its input;
- where there is a shift, no reader is a transposed convolution, and a reader that pads with zeros takes a map of what
  the shift adds at each place: only where the affine would cost a pass over memory of its own (it reads an input, or
  a value that others read as well), and only if the map is no larger than what that pass reads and writes;
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

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.program import Program
from ...ir.rules import Call, Expr, Refused, Replacement, Rule
from ..base import Pass
from .affine import (
    Affine,
    affine,
    chain,
    constant,
    end_of_chain,
    ends_chain,
    has_batch_norm,
    read,
    uses,
    value,
    wider,
)
from .fold_affine_backward import blocked
from .linear_ops import before, channel_axis, is_linear_op, named, reading
from .lower_batch_norm import normal_form
from .positive import RAMPS, through_positive
from .through import STEPS

aten = torch.ops.aten


@dataclass(frozen=True)
class FoldAffineForward(Pass):
    """Fold affine runs into all the convolutions and linear layers that read them."""

    name: ClassVar[str] = "fold_affine_forward"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """Two rules: one for the last op of each affine run, one for norms with weights."""
        return (("fold_affine_forward", fold_forward), ("fold_norm_weights_forward", fold_norm_weights))


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
    way = Way(program, ops, _room(source))
    reason = blocked(node, source, map_) or way.push(node, source, map_)
    if reason is None and not way.values:
        return None  # only dead views read it
    if reason is None:
        return Replacement(way.values, covers=(*ops, *way.covers))
    if halves := scale_forward(node, program, ops, source, map_):
        return halves
    return Refused(reason, node) if map_.axis is not None or has_batch_norm(ops) else None


def scale_forward(
    node: fx.Node, program: Program, ops: Sequence[fx.Node], source: fx.Node, map_: Affine
) -> Replacement | None:
    """Fold the scale alone into readers behind a ReLU, s relu(x + t / s), if that leaves an addition of two ops."""
    if blocked(node, source, map_) or not bool((map_.scale > 0).all()) or not bool((map_.scale != 1).any()):
        return None
    shift, dtype = map_.shift / map_.scale, value(source).dtype
    if not bool(shift.any()) or not torch.isfinite(shift.to(dtype)).all():
        return None
    way = Way(program, ops)
    moved = normal_form(source, dtype, affine(map_.axis, 1.0, shift, map_.dtype), node, ops)
    assert isinstance(moved, Call)
    moved = replace(moved, of=tuple(ops))
    reason = way.push(node, moved, affine(map_.axis, map_.scale, 0.0, map_.dtype))
    behind = any(n.target in RAMPS for n in way.covers)
    return Replacement(way.values, covers=(*ops, *way.covers)) if behind and reason is None else None


def _room(source: fx.Node) -> int:
    """How large a map may be: what an affine of its own reads and writes; nothing where it joins what made `source`."""
    joins = source.op == "call_function" and uses(source) == 1
    return 0 if joins else 2 * value(source).numel()


def fold_norm_weights(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Fold weight and bias of the norm `node` into its readers."""
    map_ = _norm_map(node, program)
    if map_ is None:
        return None
    count = NORMS[node.target][1]
    bare = Call(node.target, (*node.args[:2], *[None] * count, *node.args[2 + count :]), node.kwargs, (node,))
    way = Way(program, [node], free=True)
    reason = way.push(node, bare, map_) if map_.finite else "its weight or bias is infinite or not a number"
    if reason:
        return Refused(reason, node)
    return Replacement(way.values, covers=(node, *way.covers)) if way.values else None


def _norm_map(node: fx.Node, program: Program) -> Affine | None:
    """Return what the weight and bias of a norm do behind it, None if they are not there or are computed."""
    axis, count = NORMS.get(node.target, (0, 0))
    given = node.args[2 : 2 + count]
    known = [constant(n, program) for n in given if n is not None]
    if not known or any(t is None or t.dim() != 1 for t in known):
        return None
    scale, shift = (*(constant(n, program) for n in given), None)[:2]
    dtype = None
    for tensor in known:
        dtype = wider(dtype, tensor.dtype if tensor is not None else None)
    one = 1.0 if scale is None else scale.detach()
    return affine(axis % value(node).dim(), one, 0.0 if shift is None else shift.detach(), dtype)


@dataclass
class Way:
    """The way on from an affine to the weights that read it; a `free` one costs nothing where it is."""

    program: Program
    ops: Sequence[fx.Node]
    largest_map: int = 0
    free: bool = False
    values: dict[fx.Node, Expr] = field(default_factory=dict)
    covers: list[fx.Node] = field(default_factory=list)

    def push(self, node: fx.Node, now: Expr, map_: Affine) -> str | None:
        """Let every user of `node` read `now` instead, where node == map_(now); returns why one cannot."""
        for user in node.users:
            if user.op == "output":
                return "the program returns it"
            if reason := self.reader(user, node, now, map_):
                return reason
        return None

    def reader(self, user: fx.Node, node: fx.Node, now: Expr, map_: Affine) -> str | None:
        """Let one user of `node` read `now`."""
        if user.target is aten.cat.default:
            return self._cat(user, node, now, map_)
        if (found := read(user, self.program)) and found[0] is node and user.all_input_nodes.count(node) == 1:
            return self._affine(user, now, map_, found[1])
        if not user.args or user.args[0] is not node or user.all_input_nodes.count(node) > 1:
            return f"its reader {named(user)} is not linear in it"
        return self._weights(user, now, map_) if is_linear_op(user) else self._through(user, now, map_)

    def _weights(self, user: fx.Node, now: Expr, map_: Affine) -> str | None:
        axis = channel_axis(user)
        if map_.axis not in (None, axis):
            return f"it lies along axis {map_.axis} of the input of {named(user)}, whose channels are axis {axis}"
        call = before(user, map_, self.program, self.largest_map)
        if isinstance(call, str):
            return call
        self.values[user] = reading(call, now, (user, *self.ops))
        return None

    def _affine(self, user: fx.Node, now: Expr, map_: Affine, own: Affine) -> str | None:
        """Another affine takes it in."""
        both = map_.then(own)
        if both is None:
            return f"its reader {named(user)} maps along axis {own.axis}, not {map_.axis}"
        source = next(n for n in user.all_input_nodes if n.op != "get_attr")
        if reason := blocked(user, source, both):
            return reason
        steps = _steps(both)
        if len(self.ops[-1].users) > 1 and steps > 1 and user.target is not aten.batch_norm.default:
            return f"its reader {named(user)} would take two ops where one is shared"
        if self.free and steps > _steps(own):
            return f"its reader {named(user)} would take two ops where one does"
        self.values[user] = normal_form(now, value(source).dtype, both, user, [user])
        return None

    def _cat(self, user: fx.Node, node: fx.Node, now: Expr, map_: Affine) -> str | None:
        """Go on with a map that leaves the other parts as they are."""
        parts: Any = user.args[0]
        dim: Any = user.args[1]
        if parts.count(node) > 1 or map_.axis not in (None, dim):
            return f"its reader {named(user)} does not keep the channel axis whole"
        start = sum(value(part).shape[dim] for part in parts[: parts.index(node)])
        size, own = value(user).shape[dim], map_.along(dim, value(node).shape[dim])
        scale, shift = torch.ones(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        scale[start : start + len(own.scale)], shift[start : start + len(own.scale)] = own.scale, own.shift
        self.covers.append(user)
        new = [now if part is node else part for part in parts]
        moved = affine(dim, scale, shift, map_.dtype)
        return self.push(user, Call(user.target, (new, dim), of=(user,)), moved)

    def _through(self, user: fx.Node, now: Expr, map_: Affine) -> str | None:
        step = STEPS.get(user.target)
        if step is None:
            return f"its reader {named(user)} is not linear in it"
        moved = step(user, map_)
        if moved is None:
            kept = "is not linear in it" if step is through_positive else "does not keep the channel axis whole"
            return f"its reader {named(user)} {kept}"
        self.covers.append(user)
        return self.push(user, Call(user.target, (now, *user.args[1:]), user.kwargs, (user,)), moved)


def _steps(map_: Affine) -> int:
    """Ops of its normal form."""
    return int(bool((map_.scale != 1).any())) + int(bool(map_.shift.any()))


NORMS: dict[Any, tuple[int, int]] = {
    aten.layer_norm.default: (-1, 2),
    aten.rms_norm.default: (-1, 1),
    aten.group_norm.default: (1, 2),
}
"""Norms with weights: the axis that these lie along, and how many there are from the third argument on."""
