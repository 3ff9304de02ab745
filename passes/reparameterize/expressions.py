"""Linear operators read off a graph:  node == operator(node, source)(source).

A step is one op that is linear in one input: a convolution, a linear layer, a per-channel affine, an average pooling,
a pad, a crop or a subsampling of positions, a frame of constants. An expression is a tree of steps and sums that nobody
else reads. All of it is found by structure; what it computes is known as one `ir.linear.Linear`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from ...ir import linear
from ...ir.cost import multiply_adds
from ...ir.linear import Linear
from ...ir.program import Program
from ..fold.affine import constant, read, uses, value, wider
from ..fold.linear_ops import CONVOLUTION, is_linear_op
from .frames import Frame, is_framed, read_frame

aten = torch.ops.aten

DEEPEST = 16
"""Steps and sums that one expression nests at most."""

POOLS = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)


@dataclass(frozen=True)
class Space:
    """Where the channels and the positions of an expression lie: the channel axis and how many axes follow it."""

    axis: int
    rank: int

    def extents(self, node: fx.Node) -> tuple[int, ...]:
        """Extents of a value's positions."""
        return tuple(value(node).shape[self.axis + 1 :]) if self.rank else ()

    def channels(self, node: fx.Node) -> int:
        """How many channels a value has."""
        return int(value(node).shape[self.axis])

    def samples(self, node: fx.Node) -> int:
        """How often an operator is applied to make a value."""
        return value(node).numel() // max(self.channels(node) * math.prod(self.extents(node)), 1)


def space_of(node: fx.Node) -> Space:
    """The space of a convolution's or linear layer's output."""
    rank = value(node).dim()
    return Space(1, rank - 2) if node.target is CONVOLUTION else Space(rank - 1, 0)


def is_sum(node: Any) -> bool:
    """Say whether a node adds or subtracts two computed values of its own shape and type."""
    if not isinstance(node, fx.Node) or node.target not in (aten.add.Tensor, aten.sub.Tensor) or node.kwargs:
        return False
    mine = value(node)
    return mine.is_floating_point() and all(
        isinstance(a, fx.Node) and a.op != "get_attr" and (value(a).shape, value(a).dtype) == (mine.shape, mine.dtype)
        for a in node.args[:2]
    )


@dataclass(frozen=True)
class Expressions:
    """Reads expressions of one program in one space."""

    program: Program
    space: Space
    frames: dict[fx.Node, Frame | None] = field(default_factory=dict)

    def frame(self, node: fx.Node) -> Frame | None:
        """The frame that ends at `node`, read once."""
        if node not in self.frames:
            fits = is_framed(node) and self.space == Space(1, value(node).dim() - 2)
            self.frames[node] = read_frame(node, self.program) if fits else None
        return self.frames[node]

    def sources(self, node: fx.Node, depth: int = DEEPEST) -> list[fx.Node]:
        """The values, nearest first, of which `node` is an expression; itself is the first."""
        found = [node]
        if depth == 0:
            return found
        if is_sum(node):
            a, b = (self.beyond(operand, depth) for operand in node.args[:2])  # type: ignore[arg-type]
            return found + [source for source in a if source in b]
        source = self.input(node)
        return found if source is None else found + self.beyond(source, depth)

    def beyond(self, node: fx.Node, depth: int = DEEPEST) -> list[fx.Node]:
        """The sources of a value that an expression reads: itself alone, where others read it too."""
        return self.sources(node, depth - 1) if uses(node) == 1 else [node]

    def input(self, node: fx.Node) -> fx.Node | None:
        """The value that a step is linear in; None if `node` is no step of this space."""
        if node.op != "call_function":
            return None
        if is_linear_op(node):
            known = all(a is None or constant(a, self.program) is not None for a in node.args[1:3])
            fits = space_of(node) == self.space and not (node.target is CONVOLUTION and node.args[6])
            return _node(node.args[0]) if known and fits else None
        if node.target in POOLS:
            return _node(node.args[0]) if self._is_average(node) else None
        if node.target is aten.slice.Tensor:
            return _node(node.args[0]) if self.is_crop(node) else None
        if is_framed(node):
            frame = self.frame(node)
            return frame.source if frame else None
        found = read(node, self.program)
        if found is None or found[1].axis not in (None, self.space.axis) or not found[1].finite:
            return None
        return found[0] if value(found[0]).dtype == value(node).dtype else None

    def is_crop(self, node: fx.Node) -> bool:
        """Say whether a node is a slice of positions."""
        return node.target is aten.slice.Tensor and self.space.axis < int(node.args[1]) <= self._last  # type: ignore[arg-type]

    @property
    def _last(self) -> int:
        return self.space.axis + self.space.rank

    def _is_average(self, node: fx.Node) -> bool:
        """Say whether each output is the same sum of inputs, zeros of the padding among them."""
        source: Any = node.args[0]
        if self.space != Space(1, value(node).dim() - 2) or value(source).dim() != value(node).dim():
            return False
        counted = node.args[5] or not any(node.args[3])  # type: ignore[arg-type]
        return bool(counted) and self.step(node).target == self.space.extents(node)

    def step(self, node: fx.Node) -> Linear:
        """The operator of one step."""
        source: Any = node.args[0]
        if is_linear_op(node):
            weight, bias = constant(node.args[1], self.program), constant(node.args[2], self.program)
            assert weight is not None
            stride, padding, dilation, groups = (*node.args[3:6], node.args[8]) if self.space.rank else ((), (), (), 1)
            extents: Any = self.space.extents(source)
            return linear.convolution(weight, bias, stride, padding, dilation, groups, extents)  # type: ignore[arg-type]
        if node.target in POOLS:
            return self._average(node)
        if node.target is aten.slice.Tensor:
            return self._crop(node)
        if is_framed(node):
            frame = self.frame(node)
            assert frame is not None
            extents = self.space.extents(frame.source)
            return linear.pad(self.space.channels(node), frame.low, frame.high, extents, frame.value)
        found = read(node, self.program)
        assert found is not None
        map_ = found[1].along(self.space.axis, self.space.channels(node))
        return linear.affine(map_.scale, map_.shift, self.space.extents(node))

    def _average(self, node: fx.Node) -> Linear:
        arguments: Any = node.args
        source, kernel, stride, padding, _ceil, _counted, *divisor = arguments
        channels = self.space.channels(node)
        op = linear.average(channels, kernel, stride or kernel, padding, self.space.extents(source))
        if divisor in ([], [None]):
            return op
        factor = torch.full((channels,), math.prod(kernel) / divisor[0], dtype=torch.float64)
        return linear.scale(op, factor, torch.zeros_like(factor))

    def _crop(self, node: fx.Node) -> Linear:
        """A slice of positions: a kernel of one tap that starts inside."""
        arguments: Any = node.args
        source, axis, start, _end, hop = arguments
        place = axis - self.space.axis - 1
        low, stride = ([0] * self.space.rank, [1] * self.space.rank)
        low[place], stride[place] = -start, hop
        same = linear.identity(self.space.channels(node), self.space.extents(source))
        return replace(same, low=tuple(low), stride=tuple(stride), target=self.space.extents(node))

    def operator(self, node: fx.Node, source: fx.Node) -> Linear | str:
        """What `node` does to one of its sources; a reason where it is no single operator."""
        if node is source:
            return linear.identity(self.space.channels(node), self.space.extents(node))
        if is_sum(node):
            a, b = (self.operator(operand, source) for operand in node.args[:2])  # type: ignore[arg-type]
            if isinstance(a, str) or isinstance(b, str):
                return a if isinstance(a, str) else b
            return linear.add(a, b, 1.0 if node.target is aten.add.Tensor else -1.0)
        before = self.input(node)
        assert before is not None
        inner = self.operator(before, source)
        return inner if isinstance(inner, str) else self.settled(linear.compose(self.step(node), inner), node)

    def settled(self, op: Linear | str, node: fx.Node) -> Linear | str:
        """The operator with a bias that is the same everywhere, but for rounding, made exactly so."""
        if isinstance(op, str) or op.bias[0].numel() == 1 or not op.uniform(32 * torch.finfo(value(node).dtype).eps):
            return op
        return Linear(op.weight, op.flat_bias().reshape(-1, *[1] * op.rank), *_geometry(op))

    def covered(self, node: fx.Node, source: fx.Node) -> Iterator[fx.Node]:
        """The nodes from `node` up to a source, which itself is not among them."""
        if node is source:
            return
        yield node
        if (frame := self.frame(node)) is not None:
            yield from frame.moves
        inputs: Any = node.args[:2] if is_sum(node) else (self.input(node),)
        for operand in inputs:
            yield from self.covered(operand, source)

    def work(self, node: fx.Node) -> int:
        """Multiply-adds of one node; what only moves or maps elements counts one for each."""
        if is_linear_op(node):
            return multiply_adds(node)
        if node.target in POOLS:
            return value(node).numel() * math.prod(node.args[1])  # type: ignore[arg-type]
        return value(node).numel()


def dtype_of(nodes: Iterator[fx.Node], program: Program) -> torch.dtype | None:
    """The widest type of the constants that nodes read."""
    widest: torch.dtype | None = None
    for node in nodes:
        for operand in node.all_input_nodes:
            tensor = constant(operand, program)
            if tensor is not None and tensor.dim() and tensor.is_floating_point():
                widest = wider(widest, tensor.dtype)
    return widest


def _geometry(op: Linear) -> Any:
    return op.stride, op.low, op.dilation, op.groups, op.source, op.target


def _node(argument: Any) -> fx.Node | None:
    return argument if isinstance(argument, fx.Node) and argument.op != "get_attr" else None
