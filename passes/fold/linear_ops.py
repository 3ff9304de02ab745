"""Weights of convolutions and linear layers with a per-channel map multiplied in.

    after:   s * (W x + b) + t  ==  (s W) x + (s b + t)
    before:  W (s x + t) + b    ==  (W s) x + (b + sum_in W t)      where no zero padding enters the sum
             W (s x + t) + b    ==  (W s) x + map                   where it does, with map = W (t) + b at each place

Everything is computed in float64 and cast once to the weight's type. Weights are copied, never changed in
place: another layer may be tied to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ...ir import linear
from ...ir.program import Program
from ...ir.rules import Call, Expr, Weight
from .affine import Affine, constant, value, wider

aten = torch.ops.aten
CONVOLUTION, LINEAR = aten.convolution.default, aten.linear.default


def is_linear_op(node: fx.Node) -> bool:
    """Say whether a node is a convolution (transposed too) or a linear layer."""
    return node.target in (CONVOLUTION, LINEAR)


def is_transposed(node: fx.Node) -> bool:
    """Say whether a node is a transposed convolution."""
    return node.target is CONVOLUTION and bool(node.args[6])


def channel_axis(node: fx.Node) -> int:
    """Return the channel axis of a linear op's input and output."""
    weight: Any = node.args[1]
    return value(node).dim() - (value(weight).dim() - 1 if node.target is CONVOLUTION else 1)


def check(node: fx.Node, map_: Affine, program: Program) -> str | None:
    """Return why the weights of `node` cannot take a map, None if they can."""
    weight, bias = constant(node.args[1], program), node.args[2]
    if weight is None or (bias is not None and constant(bias, program) is None):
        return f"the weight of {named(node)} is computed from inputs"
    if not weight.is_floating_point():
        return f"the weight of {named(node)} is {weight.dtype}"
    if wider(weight.dtype, map_.dtype) != weight.dtype:
        types = f"a {short(map_.dtype)} affine does not fit a {short(weight.dtype)} weight"
        return f"{named(node)} would lose precision: {types}"
    return None


def after(node: fx.Node, map_: Affine, program: Program) -> Call | str:
    """Return the op that computes `map_(node)`, or why there is none. `map_` lies along the output channels."""
    if reason := check(node, map_, program):
        return reason
    weight, bias = _parameters(node, program)
    map_ = map_.along(channel_axis(node), value(node).shape[channel_axis(node)])
    new_bias = map_.shift if bias is None else map_.scale * bias + map_.shift
    return _rebuilt(node, program, weight * per_output(node, weight, map_.scale), new_bias)


def before(node: fx.Node, map_: Affine, program: Program, largest_map: int = 0) -> Call | str:
    """Return the op that computes `node` with `map_` put before it, reading the same first argument.

    A zero-padded convolution takes a shift as an addition of at most `largest_map` numbers behind it.
    """
    if reason := check(node, map_, program):
        return reason
    shifted = bool(map_.shift.any())
    if shifted and is_transposed(node):
        return f"a transposed convolution sums fewer taps at its border, so {named(node)} cannot take the shift"
    weight, bias = _parameters(node, program)
    source: Any = node.args[0]
    map_ = map_.along(channel_axis(node), value(source).shape[channel_axis(node)])
    if shifted and node.target is CONVOLUTION and any(node.args[4]):  # type: ignore[arg-type]
        if value(node)[0].numel() > largest_map:
            return f"{named(node)} pads with zeros, which the shift would have to change"
        return _with_map(node, map_, program, weight, bias)
    if shifted:
        moved = (weight * per_input(node, weight, map_.shift)).flatten(1).sum(1)
        bias = moved if bias is None else bias + moved
    return _rebuilt(node, program, weight * per_input(node, weight, map_.scale), bias)


def between(node: fx.Node, inner: Tensor | None, outer: Tensor | None, program: Program) -> Call | str:
    """Return the op that computes `outer * node(inner * x)`, reading x; the scales lie along channels."""
    weight, bias = _parameters(node, program)
    if inner is not None:
        weight = weight * per_input(node, weight, inner)
    if outer is not None:
        weight, bias = weight * per_output(node, weight, outer), None if bias is None else bias * outer
    return _rebuilt(node, program, weight, bias)


def reading(call: Call, source: Expr, of: tuple[fx.Node, ...]) -> Call:
    """The call of a linear op, and what stands behind it, over another input."""
    if call.op in (CONVOLUTION, LINEAR):
        return Call(call.op, (source, *call.args[1:]), call.kwargs, of)
    inner = call.args[0]
    assert isinstance(inner, Call)
    return Call(call.op, (reading(inner, source, of), *call.args[1:]), call.kwargs, of)


def _with_map(node: fx.Node, map_: Affine, program: Program, weight: Tensor, bias: Tensor | None) -> Call | str:
    """Return a padded convolution of the scaled input, and behind it what the shift and the bias add at each place."""
    source: Any = node.args[0]
    stride, padding, dilation, groups = (*node.args[3:6], node.args[8])
    extents: Any = value(source).shape[2:]
    op = linear.convolution(weight, bias, stride, padding, dilation, groups, extents)  # type: ignore[arg-type]
    moved = linear.compose(op, linear.affine(map_.scale, map_.shift, op.source))
    assert isinstance(moved, linear.Linear)
    if moved.uniform(0.0):
        return _rebuilt(node, program, moved.weight, moved.flat_bias())
    scaled = _rebuilt(node, program, moved.weight, None)
    if isinstance(scaled, str):
        return scaled
    place = name_of(node.args[1]).rpartition(".")[0]
    wide = torch.promote_types(value(node).dtype, torch.float32)
    added = Call(aten.add.Tensor, (scaled, Weight(f"{place}.map".lstrip("."), moved.bias.to(wide).contiguous())))
    return added if wide == value(node).dtype else Call(aten._to_copy.default, (added,), {"dtype": value(node).dtype})


def _parameters(node: fx.Node, program: Program) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias in float64."""
    weight, bias = constant(node.args[1], program), constant(node.args[2], program)
    assert weight is not None
    return weight.detach().to(torch.float64), None if bias is None else bias.detach().to(torch.float64)


def per_output(node: fx.Node, weight: Tensor, vector: Tensor) -> Tensor:
    """Shape a vector over output channels to multiply the weight."""
    ones = [1] * (weight.dim() - 2)
    if not is_transposed(node):
        return vector.reshape(-1, 1, *ones)
    groups = int(node.args[8])  # type: ignore[arg-type]
    return vector.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).reshape(*weight.shape[:2], *ones)


def per_input(node: fx.Node, weight: Tensor, vector: Tensor) -> Tensor:
    """Shape a vector over input channels to multiply the weight."""
    ones = [1] * (weight.dim() - 2)
    if is_transposed(node):
        return vector.reshape(-1, 1, *ones)
    groups = int(node.args[8]) if node.target is CONVOLUTION else 1  # type: ignore[arg-type]
    return vector.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).reshape(*weight.shape[:2], *ones)


def _rebuilt(node: fx.Node, program: Program, weight: Tensor, bias: Tensor | None) -> Call | str:
    old_weight, old_bias = constant(node.args[1], program), constant(node.args[2], program)
    assert old_weight is not None
    weight_name = name_of(node.args[1])
    parts: list[Weight | None] = []
    for new, old, name in (
        (weight, old_weight, weight_name),
        (bias, old_bias, weight_name.rpartition(".")[0] + ".bias" if node.args[2] is None else name_of(node.args[2])),
    ):
        if new is None or (old is None and not new.any()):
            parts.append(None)
            continue
        cast = new.to(old_weight.dtype if old is None else old.dtype)
        if not torch.isfinite(cast).all() and (old is None or bool(torch.isfinite(old).all())):
            return f"the folded {name} overflows {short(cast.dtype)}"
        parts.append(Weight(name.lstrip("."), cast.contiguous()))
    return Call(node.target, (node.args[0], *parts, *node.args[3:]), node.kwargs)


def name_of(node: Any) -> str:
    """Return the weight name a constant node reads."""
    while node.op != "get_attr":
        node = node.args[0]
    return str(node.target)


def short(dtype: torch.dtype | None) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def named(node: fx.Node) -> str:
    """Return a node's name with its layer, for reasons."""
    layers = [o.layer for o in node.meta.get("origins", ()) if o.layer]
    return f"{node.name} ({layers[-1]})" if layers else node.name
