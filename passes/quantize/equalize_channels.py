"""equalize_channels: what is large in one channel and small in another is made alike, by scales that cancel.

    W2 f(W1 x + b1)  ==  (W2 s) f((W1 x + b1) / s)        f(x / s) == f(x) / s  for positive s, by channel

A layer's values have one scale, which the largest channel sets; the codes of small channels are few. These scales are
those of Nagel et al. 2019: they make the largest weight that writes a channel as large as the largest that reads it,
s = sqrt(r1 / r2), along a whole chain of layers again and again until nothing changes.

Conditions:
- between two layers there are ReLUs (also leaky ones), pools, means and moves that nobody else reads;
- weights are constants; a channel that is zero on either side keeps its scale.

Before:
    program(%x: f32[1, 1]) optimized {
      @a.weight: f32[2, 1] = [[8.0], [0.5]]
      @a.bias: f32[2] = [4.0, 1.0]
      @b.weight: f32[1, 2] = [[2.0, 2.0]]
      %a: f32[1, 2] = linear(%x, @a.weight, @a.bias)   # a
      %r: f32[1, 2] = relu(%a)
      %b: f32[1, 1] = linear(%r, @b.weight, none)   # b
      return %b
    }

After:
    program(%x: f32[1, 1]) optimized {
      @a.weight_1: f32[2, 1] = [[4.0], [1.0]]
      @a.bias_1: f32[2] = [2.0, 2.0]
      @b.weight_1: f32[1, 2] = [[4.0, 1.0]]
      %linear: f32[1, 2] = linear(%x, @a.weight_1, @a.bias_1)   # a
      %relu: f32[1, 2] = relu(%linear)
      %linear_1: f32[1, 1] = linear(%relu, @b.weight_1, none)   # b
      return %linear_1
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from ...ir.ops import family
from ...ir.program import Program, Stage
from ...ir.rules import Call, Expr, Refused, Replacement, Rule
from ...ir.text_values import show_op
from ..base import Numerics, Pass
from ..fold.affine import Affine, constant, uses, value
from ..fold.linear_ops import (
    between,
    channel_axis,
    check,
    is_linear_op,
    is_transposed,
    per_input,
    per_output,
    reading,
)
from ..fold.through import STEPS

aten = torch.ops.aten
ROUNDS = 100
"""As often at most is a chain walked."""
ALIKE = 1e-3
"""Scales that differ from 1 by less are left alone, so that doing it again changes nothing."""


@dataclass(frozen=True)
class Link:
    """Two layers and what is between them; `owner[j]` is the producer's channel behind the consumer's channel j."""

    producer: fx.Node
    way: tuple[fx.Node, ...]
    consumer: fx.Node
    owner: Tensor


@dataclass(frozen=True)
class EqualizeChannels(Pass):
    """Equalize the channels of layers that follow one another."""

    name: ClassVar[str] = "equalize_channels"
    requires: ClassVar[Stage] = Stage.OPTIMIZED
    numerics: ClassVar[Numerics] = Numerics.ROUNDS

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at the last layer of each chain."""
        return (("equalize_channels", equalize),)


def equalize(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Rewrite the chain of layers that ends at a layer."""
    if not is_linear_op(node):
        return None
    first = link(node, program)
    if isinstance(first, Refused):
        return first
    if first is None or _goes_on(node, program):
        return None
    links = _chain(first, program)
    scales = scales_of(links, program)
    if all(bool(((s - 1).abs() < ALIKE).all()) for s in scales):
        return None
    made = _rewritten(links, scales, program)
    if isinstance(made, str):
        return Refused(made, node)
    return Replacement({node: made}, covers=tuple(n for one in links for n in (one.producer, *one.way)))


def link(consumer: fx.Node, program: Program) -> Link | Refused | None:
    """What stands before a layer; a reason where another function or another reader is in between."""
    way: list[fx.Node] = []
    node: Any = consumer.args[0]
    while isinstance(node, fx.Node) and node.op == "call_function" and not is_linear_op(node):
        if node.target not in STEPS:
            alone = family(node) == "pointwise" and len(node.all_input_nodes) == 1
            reason = f"{show_op(node.target)} of a scaled value is not the scaled {show_op(node.target)}"
            return Refused(reason, consumer) if alone and _layer_before(node) else None
        way.insert(0, node)
        node = node.args[0]
    if not isinstance(node, fx.Node) or not is_linear_op(node):
        return None
    if any(uses(one) != 1 for one in (node, *way)):
        return Refused("others read the values before it, too", consumer)
    owner = _owner(node, way, consumer)
    if owner is None or check(node, _by(node, torch.ones(1)), program) or check(consumer, _by(node, owner), program):
        return None
    return Link(node, tuple(way), consumer, owner)


def scales_of(links: Sequence[Link], program: Program) -> list[Tensor]:
    """s of each link in float64: what the producer is divided by and the consumer multiplied with."""
    layers = [links[0].producer, *(one.consumer for one in links)]
    sizes = [_sizes(layer, program) for layer in layers]
    made = [
        torch.ones(int(value(one.producer).shape[channel_axis(one.producer)]), dtype=torch.float64) for one in links
    ]
    for _ in range(ROUNDS):
        moved = 0.0
        for place, one in enumerate(links):
            inner = made[place - 1][links[place - 1].owner] if place else None
            outer = made[place + 1] if place + 1 < len(links) else None
            writes = _ranges(one.producer, sizes[place], inner, made[place], True)
            reads = _by_owner(_ranges(one.consumer, sizes[place + 1], made[place][one.owner], outer, False), one.owner)
            step = torch.where((writes > 0) & (reads > 0), (writes / reads).sqrt(), 1.0)
            made[place] = made[place] * step
            moved = max(moved, float(step.log().abs().max()))
        if moved < ALIKE / 100:
            break
    return made


def _chain(last: Link, program: Program) -> list[Link]:
    """All links before one, first things first."""
    found = [last]
    while isinstance(earlier := link(found[0].producer, program), Link):
        found.insert(0, earlier)
    return found


def _goes_on(node: fx.Node, program: Program) -> bool:
    """Whether the chain has another layer after this one."""
    readers = list(node.users)
    while len(readers) == 1 and readers[0].target in STEPS:
        readers = list(readers[0].users)
    if len(readers) != 1 or not is_linear_op(readers[0]):
        return False
    return isinstance(link(readers[0], program), Link)


def _layer_before(node: fx.Node) -> bool:
    """Whether a function is applied to what a layer makes."""
    source: Any = node.args[0]
    while isinstance(source, fx.Node) and source.target in STEPS:
        source = source.args[0]
    return isinstance(source, fx.Node) and is_linear_op(source)


def _rewritten(links: Sequence[Link], scales: Sequence[Tensor], program: Program) -> Expr | str:
    """The last layer's expression over all that is before it."""
    source: Any = links[0].producer.args[0]
    made: Expr = source
    for place in range(len(links) + 1):
        layer = links[place].producer if place < len(links) else links[-1].consumer
        inner = scales[place - 1][links[place - 1].owner] if place else None
        outer = 1 / scales[place] if place < len(links) else None
        scaled = between(layer, inner, outer, program)
        if isinstance(scaled, str):
            return scaled
        made = reading(scaled, made, (layer,))
        for step in links[place].way if place < len(links) else ():
            made = Call(step.target, (made, *step.args[1:]), step.kwargs, (step,))
    return made


def _owner(producer: fx.Node, way: Sequence[fx.Node], consumer: fx.Node) -> Tensor | None:
    """Which of the producer's channels each of the consumer's is; None where it is not one."""
    axis = channel_axis(producer)
    numbers = torch.arange(1, int(value(producer).shape[axis]) + 1, dtype=torch.float64)
    map_: Affine | None = Affine(axis, numbers, torch.zeros_like(numbers))
    for step in way:
        map_ = None if map_ is None else STEPS[step.target](step, map_)
    source: Any = consumer.args[0]
    extent = int(value(source).shape[channel_axis(consumer)])
    if map_ is None or map_.axis != channel_axis(consumer) or map_.scale.numel() != extent:
        return None
    return map_.scale.to(torch.int64) - 1


def _by(node: fx.Node, scale: Tensor) -> Affine:
    return Affine(channel_axis(node), scale.to(torch.float64), torch.zeros_like(scale, dtype=torch.float64))


def _sizes(layer: fx.Node, program: Program) -> Tensor:
    """The largest weight of each pair of channels that a layer connects: (outputs, inputs of a group), or turned."""
    weight = constant(layer.args[1], program)
    assert weight is not None
    return weight.detach().abs().reshape(*weight.shape[:2], -1).amax(2).to(torch.float64)


def _ranges(layer: fx.Node, sizes: Tensor, inner: Tensor | None, outer: Tensor | None, written: bool) -> Tensor:
    """The largest weight of each output (`written`) or input channel, once both scales are in."""
    groups = int(layer.args[8]) if layer.target is aten.convolution.default else 1  # type: ignore[arg-type]
    scaled = sizes if inner is None else sizes * per_input(layer, sizes, inner)
    scaled = scaled if outer is None else scaled / per_output(layer, sizes, outer)
    if written is not is_transposed(layer):
        return scaled.amax(1)
    return scaled.reshape(groups, scaled.shape[0] // groups, -1).amax(1).flatten()


def _by_owner(ranges: Tensor, owner: Tensor) -> Tensor:
    """The largest among the channels that belong together."""
    return torch.zeros(int(owner.max()) + 1, dtype=ranges.dtype).scatter_reduce(0, owner, ranges, "amax")
