"""center_stream: layer norms of a stream whose writers are centred once and for all become RMS norms.

    layer_norm(x)  ==  rms_norm(C x)        C (a + b) == C a + C b,    C (W u) == (C W) u,    C = I - 1 1'/d

The mean over the channels that each layer norm subtracts is taken out of the weights of everything that writes the
stream: the embeddings, positions and tokens, and the last layer of every branch.

Conditions:
- every value of the stream is a sum, a move that keeps the channels whole, a constant, or written by an ungrouped
  convolution, a linear layer or an embedding table that nobody else reads;
- every reader of the stream is a layer norm over its channels;
- no writer is sparse: centring would fill its zeros.

Before:
    program(%x: f32[1, 2]) normalized {
      @fc.weight: f32[2, 2] = [[1.0, 2.0], [3.0, 4.0]]
      @out.weight: f32[2, 2] = [[1.0, 1.0], [1.0, 5.0]]
      %fc: f32[1, 2] = linear(%x, @fc.weight, none)   # fc
      %relu: f32[1, 2] = relu(%x)
      %out: f32[1, 2] = linear(%relu, @out.weight, none)   # out
      %add: f32[1, 2] = add.Tensor(%fc, %out)
      %norm: f32[1, 2] = layer_norm(%add, [2], none, none, 0.1, true)   # norm
      return %norm
    }

After:
    program(%x: f32[1, 2]) normalized {
      @fc.weight_1: f32[2, 2] = [[-1.0, -1.0], [1.0, 1.0]]
      @out.weight_1: f32[2, 2] = [[0.0, -2.0], [0.0, 2.0]]
      %relu: f32[1, 2] = relu(%x)
      %linear: f32[1, 2] = linear(%x, @fc.weight_1, none)   # fc
      %linear_1: f32[1, 2] = linear(%relu, @out.weight_1, none)   # out
      %add_1: f32[1, 2] = add.Tensor(%linear, %linear_1)
      %rms_norm: f32[1, 2] = rms_norm(%add_1, [2], none, 0.1)   # norm
      return %rms_norm
    }
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from ...ir.program import Program
from ...ir.rules import Call, Expr, Refused, Replacement, Rule, Weight
from ..base import Pass
from ..fold.affine import Affine, constant, value
from ..fold.linear_ops import CONVOLUTION, LINEAR, is_linear_op, name_of, named
from ..fold.views import through_reshape
from ..reparameterize.expressions import is_sum

aten = torch.ops.aten

LARGEST = 4096
"""Values of one stream that are followed."""

SPARSE = 0.25
"""Zeros from which on a weight counts as sparse."""

VIEWS = (aten.permute.default, aten.reshape.default, aten.expand.default, aten.slice.Tensor, aten.cat.default)


@dataclass(frozen=True)
class CenterStream(Pass):
    """Take the mean out of the writers of a stream, and out of the norms that read it."""

    name: ClassVar[str] = "center_stream"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at each layer norm; it turns all those of one stream."""
        return (("center_stream", center),)


def center(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Center the stream that the layer norm `node` reads."""
    if not _is_layer_norm(node):
        return None
    stream = _Stream(program)
    source: Any = node.args[0]
    reason = stream.follow(source, value(source).dim() - 1)
    return Refused(reason, node) if reason else stream.replacement()


def _is_layer_norm(node: fx.Node) -> bool:
    """Say whether a node is a layer norm over one axis, all in one type."""
    if node.target is not aten.layer_norm.default or len(node.args[1]) != 1:  # type: ignore[arg-type]
        return False
    return all(value(n).dtype == value(node).dtype for n in node.all_input_nodes)


@dataclass
class _Stream:
    """The values that are sums and moves of each other, with the axis of their channels."""

    program: Program
    axes: dict[fx.Node, int] = field(default_factory=dict)
    norms: list[fx.Node] = field(default_factory=list)

    def follow(self, start: fx.Node, axis: int) -> str | None:
        """Collect the stream; the reason where it is none."""
        todo = [(start, axis)]
        while todo:
            node, axis = todo.pop()
            if self.axes.setdefault(node, axis) != axis:
                return f"{named(node)} has its channels along two axes"
            if len(self.axes) > LARGEST:
                return f"its stream has more than {LARGEST} values"
            for step in (self._before(node, axis), self._behind(node, axis)):
                if isinstance(step, str):
                    return step
                todo += [(n, a) for n, a in step if n not in self.axes]
        return None

    def _before(self, node: fx.Node, axis: int) -> list[tuple[fx.Node, int]] | str:
        """The values of the stream that make this one; none where it is written."""
        if self._writer(node, axis) is not None:
            return self._dense(node)
        operands = self._operands(node)
        found = [(n, _axis_before(node, n, axis)) for n in operands]
        if not operands or any(a is None for _, a in found):
            return f"{named(node)} writes the stream and cannot be centred"
        return [(n, a) for n, a in found if a is not None]

    def _operands(self, node: fx.Node) -> list[fx.Node]:
        """What a sum or a move is made of."""
        if is_sum(node) or (node.target in (aten.add.Tensor, aten.sub.Tensor) and not node.kwargs):
            return [a for a in node.args[:2] if isinstance(a, fx.Node)] if len(node.all_input_nodes) == 2 else []
        return list(node.all_input_nodes) if node.target in VIEWS else []

    def _writer(self, node: fx.Node, axis: int) -> Weight | None:
        """The centred weight of what writes the stream; None for what does not."""
        if node.op == "get_attr":
            return Weight(str(node.target), _centred(self.program.weights[str(node.target)], axis))
        place = WRITERS.get(node.target)
        weight: Any = node.args[place[0]] if place else None
        tensor = None if weight is None or weight.op != "get_attr" else constant(weight, self.program)
        if place is None or tensor is None or axis != (1 if node.target is CONVOLUTION else value(node).dim() - 1):
            return None
        if node.target is CONVOLUTION and (node.args[6] or node.args[8] != 1):
            return None
        if is_linear_op(node) and node.args[2] is not None and constant(node.args[2], self.program) is None:
            return None
        return Weight(name_of(weight), _centred(tensor, place[1]))

    def _dense(self, node: fx.Node) -> list[tuple[fx.Node, int]] | str:
        """Refuse a weight that has many zeros, or that others read as well."""
        if node.op == "get_attr":
            return []
        weight: Any = node.args[WRITERS[node.target][0]]
        tensor = constant(weight, self.program)
        assert tensor is not None
        if float((tensor == 0).float().mean()) > SPARSE:
            return f"the weight of {named(node)} is sparse, and centring would fill its zeros"
        if node.target is aten.embedding.default and len(weight.users) > 1:
            return f"others read the table of {named(node)}, and a centred copy would take as much memory again"
        return []

    def _behind(self, node: fx.Node, axis: int) -> list[tuple[fx.Node, int]] | str:
        """The values of the stream that are made of this one; notes the norms that read it."""
        if node.op == "get_attr":
            return []
        found = []
        for user in node.users:
            if _is_layer_norm(user) and user.args[0] is node and axis == value(node).dim() - 1:
                self.norms.append(user)
                continue
            after = _axis_behind(user, node, axis) if node in self._operands(user) else None
            if after is None:
                return f"{_reader(user)} reads the stream, and is no layer norm over its channels"
            found.append((user, after))
        return found

    def replacement(self) -> Replacement:
        """The whole stream over centred weights, read by RMS norms."""
        new: dict[fx.Node, Expr] = {}
        norms = set(self.norms)
        for node in sorted({*self.axes, *norms}):
            new[node] = _rms_norm(node, new[node.all_input_nodes[0]]) if node in norms else self._rebuilt(node, new)
        return Replacement({norm: new[norm] for norm in norms}, tuple(self.axes))

    def _rebuilt(self, node: fx.Node, new: dict[fx.Node, Expr]) -> Expr:
        """One value of the stream without its mean."""
        weight = self._writer(node, self.axes[node])
        if weight is None:
            return Call(node.target, _mapped(node.args, new), node.kwargs, (node,))
        if node.op == "get_attr":
            return weight
        if not is_linear_op(node):
            return Call(node.target, (weight, *node.args[1:]), node.kwargs, (node,))
        bias = constant(node.args[2], self.program)
        parts = (weight, None if bias is None else Weight(name_of(node.args[2]), _centred(bias, 0)))
        return Call(node.target, (_mapped(node.args[0], new), *parts, *node.args[3:]), node.kwargs, (node,))


WRITERS: dict[Any, tuple[int, int]] = {LINEAR: (1, 0), CONVOLUTION: (1, 0), aten.embedding.default: (0, 1)}
"""Ops that write a stream: the place of their weight, and its axis of channels."""


def _centred(tensor: Tensor, axis: int) -> Tensor:
    """The tensor without its mean along an axis."""
    wide = tensor.detach().to(torch.float64)
    return (wide - wide.mean(axis, keepdim=True)).to(tensor.dtype).contiguous()


def _mapped(args: Any, new: dict[fx.Node, Expr]) -> Any:
    """Arguments with the stream's values replaced."""
    if isinstance(args, (list, tuple)):
        return type(args)(_mapped(a, new) for a in args)
    return new.get(args, args) if isinstance(args, fx.Node) else args


def _rms_norm(norm: fx.Node, source: Expr) -> Expr:
    """The norm without its mean; its bias as an addition."""
    _x, shape, weight, bias, eps, _flag = norm.args
    result = Call(aten.rms_norm.default, (source, shape, weight, eps), of=(norm,))
    return result if bias is None else Call(aten.add.Tensor, (result, bias), of=(norm,))


def _axis_before(node: fx.Node, operand: fx.Node, axis: int) -> int | None:
    """Where the channels of an operand of a sum or move lie, None if they are not kept whole."""
    return _moved(node, operand, axis, value(node), value(operand), _BEFORE)


def _axis_behind(node: fx.Node, operand: fx.Node, axis: int) -> int | None:
    """Where the channels of a sum or move lie, given those of an operand."""
    return _moved(node, operand, axis, value(operand), value(node), _BEHIND)


def _moved(node: fx.Node, operand: fx.Node, axis: int, mine: Tensor, other: Tensor, table: Any) -> int | None:
    step = table.get(node.target)
    if step is None:
        if node.target is aten.cat.default or node.target is aten.slice.Tensor:
            kept = node.args[1] != axis
            return axis if kept else None
        after = axis + other.dim() - mine.dim()  # sums and expand align at the end
        same = after >= 0 and other.shape[after] == mine.shape[axis]
        return after if same else None
    found: int | None = step(node, axis, mine, other)
    return found


def _through_reshape(node: fx.Node, axis: int, mine: Tensor, other: Tensor) -> int | None:
    size = mine.shape[axis]
    marks = torch.arange(size, dtype=torch.float64)
    moved = through_reshape(Affine(axis, marks, marks), mine.shape, other.shape)
    whole = moved is not None and moved.axis is not None and torch.equal(moved.scale, marks)
    return moved.axis if moved is not None and whole else None


def _permute_before(node: fx.Node, axis: int, mine: Tensor, other: Tensor) -> int:
    dims: Any = node.args[1]
    return int(dims[axis])


def _permute_behind(node: fx.Node, axis: int, mine: Tensor, other: Tensor) -> int:
    dims: Any = node.args[1]
    return list(dims).index(axis)


_Step = Callable[[fx.Node, int, Tensor, Tensor], "int | None"]
_BEFORE: dict[Any, _Step] = {aten.permute.default: _permute_before, aten.reshape.default: _through_reshape}
_BEHIND: dict[Any, _Step] = {aten.permute.default: _permute_behind, aten.reshape.default: _through_reshape}


def _reader(user: fx.Node) -> str:
    return "the caller" if user.op == "output" else named(user)
