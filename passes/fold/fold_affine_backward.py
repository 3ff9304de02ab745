"""fold_affine_backward: batch norm and every other per-channel affine go into the weights that feed them.

    s * conv(x; W, b) + t  ==  conv(x; s W, s b + t)

An affine is a run of eval-mode batch norms and of mul, add, sub, div, neg by constants along one axis. It is
taken back through permute, reshape, expand, slice, cat and sums, with positive scales also through ReLUs and maxima,
and absorbed by convolutions (1d, 2d, 3d, grouped, transposed) and linear layers.

Conditions:
- the affine lies along the output channels of its producer (a linear layer's last axis);
- nobody else reads the producer, nor anything on the way;
- scale and shift are finite, and the weight's type holds what they were given in;
- of a cat or a sum, every part can take its share.

Before:
    program(%x: f32[1, 1, 4]) normalized {
      @conv.weight: f32[2, 1, 1] = [[[3.0]], [[5.0]]]
      @bn.weight: f32[2] = [1.0, 2.0]
      @bn.bias: f32[2] = [0.5, 0.0]
      @bn.mean: f32[2] = [1.0, -1.0]
      @bn.var: f32[2] = [0.25, 4.0]
      %conv: f32[1, 2, 4] = convolution(%x, @conv.weight, none, [1], [0], [1], false, [0], 1)   # conv
      %bn: f32[1, 2, 4] = batch_norm(%conv, @bn.weight, @bn.bias, @bn.mean, @bn.var, false, 0.1, 0.0, false)   # n
      return %bn
    }

After:
    program(%x: f32[1, 1, 4]) normalized {
      @conv.weight_1: f32[2, 1, 1] = [[[6.0]], [[5.0]]]
      @conv.bias: f32[2] = [-1.5, 1.0]
      %convolution: f32[1, 2, 4] = convolution(%x, @conv.weight_1, @conv.bias, [1], [0], [1], false, [0], 1)   # n, conv
      return %convolution
    }
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.program import Program
from ...ir.rules import Call, Expr, Refused, Replacement, Rule, Weight
from ..base import Pass
from .affine import Affine, affine, broadcast, chain, constant, end_of_chain, ends_chain, has_batch_norm, uses, value
from .linear_ops import after, channel_axis, is_linear_op, name_of, named, short
from .positive import MAXIMA, RAMPS, through_positive
from .views import average, through_reshape

aten = torch.ops.aten


LONGEST_WAY = 100
"""Ops that an affine is taken back through at most."""


@dataclass(frozen=True)
class FoldAffineBackward(Pass):
    """Fold affine runs into the convolution or linear layer before them."""

    name: ClassVar[str] = "fold_affine_backward"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at the last op of each affine run."""
        return (("fold_affine_backward", fold_backward),)


def fold_backward(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Fold the affine run that ends at `node` into what produces its input."""
    if not ends_chain(node, program):
        if node.target is not aten.batch_norm.default:
            return None  # reported at the end of the run; batch norms are reported one by one
        verdict = fold_backward(end_of_chain(node, program), program)
        return Refused(verdict.reason, node) if isinstance(verdict, Refused) else None
    found = chain(node, program)
    if found is None:
        return dynamic_batch_norm(node)
    ops, source, map_ = found
    way = Way(program, ops)
    result = blocked(node, source, map_) or way.absorb(source, map_)
    if not isinstance(result, str):
        return Replacement({node: result, **way.siblings}, covers=(*ops[:-1], *way.covers))
    return Refused(result, node) if map_.axis is not None or has_batch_norm(ops) else None


def dynamic_batch_norm(node: fx.Node) -> Refused | None:
    """Refuse a batch norm that is no affine."""
    if node.target is not aten.batch_norm.default:
        return None
    if node.args[5] or node.args[3] is None:
        return Refused("batch norm in training mode normalizes by its input, so it is not affine", node)
    return Refused("its statistics or parameters are computed from inputs", node)


def blocked(node: fx.Node, source: fx.Node, map_: Affine) -> str | None:
    """Return why an affine must stay as it is, wherever it might go."""
    if not map_.finite:
        return "its scale or shift is infinite or not a number"
    if value(node).dtype != value(source).dtype:
        return f"it turns {short(value(source).dtype)} into {short(value(node).dtype)}"
    return None


@dataclass
class Way:
    """The way back from an affine to the weights; a string as result is the reason why it is barred."""

    program: Program
    ops: Sequence[fx.Node]
    covers: list[fx.Node] = field(default_factory=list)
    siblings: dict[fx.Node, Expr] = field(default_factory=dict)

    def absorb(self, node: fx.Node, map_: Affine, shared: bool = False) -> Expr | str:
        """Return an expression for `map_(node)` without the affine op; `shared`: other users are provided for."""
        if constant(node, self.program) is not None:
            return self._constant(node, map_)
        step = LINEAR_STEP if is_linear_op(node) else STEPS.get(node.target)
        if step is None:
            return f"its producer {named(node)} is not linear" if node.op == "call_function" else "it reads an input"
        if len(self.covers) > LONGEST_WAY:
            return f"the way back to the weights is longer than {LONGEST_WAY} ops"
        if uses(node) > 1 and not shared:
            return f"its producer {named(node)} has other users: {_others(node, [*self.ops, *self.covers])}"
        self.covers.append(node)
        return step(self, node, map_)

    def _constant(self, node: fx.Node, map_: Affine) -> Expr | str:
        tensor = constant(node, self.program)
        assert tensor is not None
        rank = value(node).dim()
        result = tensor.to(torch.float64) * broadcast(map_.scale, map_.axis, rank)
        cast = (result + broadcast(map_.shift, map_.axis, rank)).to(tensor.dtype)
        if not torch.isfinite(cast).all() and bool(torch.isfinite(tensor).all()):
            return f"the folded {name_of(node)} overflows {short(tensor.dtype)}"
        same = cast.shape == value(node).shape
        weight = Weight(name_of(node), cast)
        return weight if same else Call(aten.expand.default, (weight, list(value(node).shape)))

    def into_weights(self, node: fx.Node, map_: Affine) -> Expr | str:
        """End at a convolution or linear layer."""
        axis = channel_axis(node)
        if map_.axis is not None and map_.axis != axis:
            return f"it lies along axis {map_.axis} of {named(node)}, whose channels are axis {axis}"
        call = after(node, map_, self.program)
        return call if isinstance(call, str) else replace(call, of=(*self.ops, node))

    def through(self, node: fx.Node, map_: Affine | None, shared: bool = False) -> Expr | str:
        """Pass a view whose input takes `map_`."""
        source: Any = node.args[0]
        if map_ is None:
            return f"{named(node)} does not keep the channel axis whole"
        inner = self.absorb(source, map_, shared)
        return inner if isinstance(inner, str) else Call(node.target, (inner, *node.args[1:]), node.kwargs, (node,))

    def permute(self, node: fx.Node, map_: Affine) -> Expr | str:
        """Follow the axis to where it came from."""
        dims: Any = node.args[1]
        return self.through(node, map_ if map_.axis is None else map_.on_axis(dims[map_.axis]))

    def reshape(self, node: fx.Node, map_: Affine) -> Expr | str:
        """Follow the axis through splits and merges of dimensions."""
        source: Any = node.args[0]
        return self.through(node, through_reshape(map_, value(node).shape, value(source).shape))

    def expand(self, node: fx.Node, map_: Affine) -> Expr | str:
        """Pass unless the channel axis itself is what is repeated."""
        source: Any = node.args[0]
        if map_.axis is None:
            return self.through(node, map_)
        axis = map_.axis - (value(node).dim() - value(source).dim())
        kept = axis >= 0 and value(source).shape[axis] == value(node).shape[map_.axis]
        return self.through(node, map_.on_axis(axis) if kept else None)

    def slice(self, node: fx.Node, map_: Affine) -> Expr | str:
        """Leave what the slice drops as it is, and with it what disjoint slices of the same value read."""
        source: Any = node.args[0]
        dim: Any = node.args[1]
        others = [user for user in source.users if user is not node]
        apart = all(_disjoint(node, other) for other in others)
        if map_.axis not in (None, dim) or not apart:
            return self.through(node, map_)
        picked: Any = slice(*node.args[2:5])
        size = value(source).shape[dim]
        scale, shift = torch.ones(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        scale[picked], shift[picked] = map_.scale, map_.shift
        result = self.through(node, affine(dim, scale, shift, map_.dtype), shared=True)
        if isinstance(result, Call):
            self.siblings |= {o: Call(o.target, (result.args[0], *o.args[1:]), of=(o,)) for o in others}
        return result

    def average(self, node: fx.Node, map_: Affine) -> Expr | str:
        """Pass an average pooling that counts no padding."""
        return self.through(node, average(node, map_))

    def positive(self, node: fx.Node, map_: Affine) -> Expr | str:
        """Pass a ReLU or a maximum, which positive scales leave as it is."""
        moved = through_positive(node, map_)
        return f"its producer {named(node)} is not linear" if moved is None else self.through(node, moved)

    def cat(self, node: fx.Node, map_: Affine) -> Expr | str:
        """Give each part its share; refuse before touching any if one has other users."""
        parts: Any = node.args[0]
        dim: Any = node.args[1]
        shared = [p for p in parts if uses(p) > 1 and constant(p, self.program) is None]
        if shared:
            others = sorted({u.name for p in shared for u in p.users if u is not node})
            tail = f" ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''})" if others else ""
            return f"its producer is {named(node)}, a cat of values with other users{tail}"
        sizes = [value(p).shape[dim] for p in parts]
        shares = [map_] * len(parts)
        if map_.axis == dim:
            pairs = zip(map_.scale.split(sizes), map_.shift.split(sizes), strict=True)
            shares = [affine(dim, scale, shift, map_.dtype) for scale, shift in pairs]
        new: list[Expr] = []
        for part, share in zip(parts, shares, strict=True):
            inner = self.absorb(part, share)
            if isinstance(inner, str):
                return f"its producer is {named(node)}, a cat of which one part cannot take it: {inner}"
            new.append(inner)
        return Call(node.target, (new, dim), of=(node,))

    def sum(self, node: fx.Node, map_: Affine) -> Expr | str:
        """Scale both terms of a sum or difference; the shift goes with the first."""
        terms: Any = node.args[:2]
        if any(not isinstance(t, fx.Node) or value(t).shape != value(node).shape for t in terms) or node.kwargs:
            return f"its producer {named(node)} is not a sum of equal shapes"
        new: list[Expr] = []
        for term, share in zip(terms, (map_, affine(map_.axis, map_.scale, 0.0, map_.dtype)), strict=True):
            inner = self.absorb(term, share)
            if isinstance(inner, str):
                return f"its producer {named(node)} is a sum of which one term cannot take it: {inner}"
            new.append(inner)
        return Call(node.target, tuple(new), of=(node,))


Step = Callable[[Way, fx.Node, Affine], "Expr | str"]

LINEAR_STEP: Step = Way.into_weights
STEPS: dict[Any, Step] = {
    aten.permute.default: Way.permute,
    aten.reshape.default: Way.reshape,
    aten.expand.default: Way.expand,
    aten.slice.Tensor: Way.slice,
    aten.avg_pool1d.default: Way.average,
    aten.avg_pool2d.default: Way.average,
    aten.avg_pool3d.default: Way.average,
    **dict.fromkeys((*RAMPS, *MAXIMA), Way.positive),
    aten.cat.default: Way.cat,
    aten.add.Tensor: Way.sum,
    aten.sub.Tensor: Way.sum,
}


def _disjoint(one: fx.Node, other: fx.Node) -> bool:
    """Say whether two slices of one value share nothing."""
    if other.target is not one.target or one.args[:2] != other.args[:2]:
        return False
    source: Any = one.args[0]
    dim: Any = one.args[1]
    size = value(source).shape[dim]
    bounds: list[Any] = [n.args[2:5] for n in (one, other)]
    mine, theirs = (set(range(size)[slice(*b)]) for b in bounds)
    return not mine & theirs


def _others(node: fx.Node, inside: Sequence[fx.Node]) -> str:
    """Name the users of a node apart from the one that asks."""
    names = [user.name for user in node.users if user not in inside]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "it is read twice"
