"""merge_transposed: transposed convolutions over one value that are added up become one.

    conv_t(x; W1, b1) + conv_t(x; W2, b2)  ==  conv_t(x; W1 + W2, b1 + b2)     both laid on the lattice of all taps

A transposed convolution is the adjoint of a convolution with the same weight, which takes the output to the input; so
its weight is added up as those of convolutions are.

Conditions:
- one input, stride and size of output, and nobody else reads any of the terms;
- padding equally at both ends gives that size, with a rest at the end that is smaller than the stride;
- the one operator takes no more multiply-adds than the terms did.

Before:
    program(%x: f32[1, 1, 3]) normalized {
      @a.weight: f32[1, 1, 4] = [[[1.0, 2.0, 3.0, 4.0]]]
      @a.bias: f32[1] = [0.5]
      @b.weight: f32[1, 1, 2] = [[[10.0, 20.0]]]
      @b.bias: f32[1] = [0.25]
      %a: f32[1, 1, 6] = convolution(%x, @a.weight, @a.bias, [2], [1], [1], true, [0], 1)   # a
      %b: f32[1, 1, 6] = convolution(%x, @b.weight, @b.bias, [2], [0], [1], true, [0], 1)   # b
      %y: f32[1, 1, 6] = add.Tensor(%a, %b)
      return %y
    }

After:
    program(%x: f32[1, 1, 3]) normalized {
      @a.weight_1: f32[1, 1, 4] = [[[1.0, 12.0, 23.0, 4.0]]]
      @a.bias_1: f32[1] = [0.75]
      %convolution: f32[1, 1, 6] = convolution(%x, @a.weight_1, @a.bias_1, [2], [1], [1], true, [0], 1)   # a, b
      return %convolution
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from ...ir import linear
from ...ir.linear import Linear
from ...ir.program import Program
from ...ir.rules import Call, Refused, Replacement, Rule, Weight
from ..base import Pass
from ..fold.affine import constant, uses, value
from ..fold.linear_ops import CONVOLUTION, is_transposed, name_of, named, short
from .expressions import is_sum
from .merge_branches import open_sum

aten = torch.ops.aten

Term = tuple[fx.Node, float]
"""A summand and its sign."""


@dataclass(frozen=True)
class MergeTransposed(Pass):
    """Add up the weights of parallel transposed convolutions."""

    name: ClassVar[str] = "merge_transposed"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at the last addition of each sum."""
        return (("merge_transposed", merge),)


def merge(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Merge the first two transposed convolutions over one value in the sum that ends at `node`."""
    if not is_sum(node) or (uses(node) == 1 and is_sum(next(iter(node.users)))):
        return None
    terms, sums = open_sum(node)
    reason = None
    for i, first in enumerate(terms):
        for second in terms[i + 1 :]:
            if not _side_by_side(first[0], second[0]):
                continue
            found = _merged(first, second, program)
            if isinstance(found, Call):
                rest = [term for term in terms if term not in (first, second)]
                return Replacement({node: _sum(found, rest)}, covers=(*sums[1:], first[0], second[0]))
            reason = reason or found
    return Refused(reason, node) if reason else None


def _side_by_side(first: fx.Node, second: fx.Node) -> bool:
    """Say whether both are transposed convolutions of one value that only the sum reads."""
    alike = is_transposed(first) and is_transposed(second) and first.args[0] is second.args[0]
    return alike and first is not second and uses(first) == uses(second) == 1


def _sum(expr: Call, rest: Sequence[Term]) -> Call:
    for node, sign in rest:
        expr = Call(aten.add.Tensor if sign > 0 else aten.sub.Tensor, (expr, node))
    return expr


def _merged(first: Term, second: Term, program: Program) -> Call | str:
    """One call for two terms, or why they stay two."""
    adjoints, biases = [], []
    for node, sign in (first, second):
        weight, bias = constant(node.args[1], program), constant(node.args[2], program)
        if weight is None or (node.args[2] is not None and bias is None):
            return f"the weight of {named(node)} is computed from inputs"
        adjoints.append(_adjoint(node, weight * sign))
        biases += [] if bias is None else [sign * bias.detach().to(torch.float64)]
    total = linear.add(adjoints[0], adjoints[1])
    if isinstance(total, str):
        return total
    samples = value(first[0]).shape[0]
    before, now = (samples * sum(op.work for op in ops) for ops in (adjoints, [total]))
    if now > before:
        return f"one operator would take {now} multiply-adds where its branches take {before}"
    return _written(total, torch.stack(biases).sum(0) if biases else None, (first[0], second[0]))


def _adjoint(node: fx.Node, weight: Tensor) -> Linear:
    """The convolution that takes the gradient of a transposed convolution's output to that of its input."""
    stride, padding, dilation, groups = (*node.args[3:6], node.args[8])
    extents: Any = value(node).shape[2:]
    return linear.convolution(weight, None, stride, padding, dilation, groups, extents)  # type: ignore[arg-type]


def _written(adjoint: Linear, bias: Tensor | None, nodes: tuple[fx.Node, fx.Node]) -> Call | str:
    """The transposed convolution of an adjoint."""
    axes = zip(adjoint.target, adjoint.stride, adjoint.low, adjoint.dilation, adjoint.taps, strict=True)
    sizes = [(size - 1) * s - 2 * low + d * (k - 1) + 1 for size, s, low, d, k in axes]
    rest = [out - size for out, size in zip(adjoint.source, sizes, strict=True)]
    source: Any = nodes[0].args[0]
    if adjoint.target != tuple(value(source).shape[2:]):
        return "it would have to pad more at one end than at the other"
    stem = max(nodes, key=lambda n: value(n.args[1]).numel())
    dtype, name = value(stem.args[1]).dtype, name_of(stem.args[1])
    parts = [Weight(name, adjoint.weight.to(dtype).contiguous())]
    if bias is not None:
        named_after = f"{name.rpartition('.')[0]}.bias" if stem.args[2] is None else name_of(stem.args[2])
        parts.append(Weight(named_after.lstrip("."), bias.to(dtype).contiguous()))
    if not all(bool(torch.isfinite(part.tensor).all()) for part in parts):
        return f"the merged {name} overflows {short(dtype)}"
    geometry = (list(adjoint.stride), list(adjoint.low), list(adjoint.dilation), True, rest, adjoint.groups)
    weights = parts if bias is not None else [*parts, None]
    return Call(CONVOLUTION, (source, *weights, *geometry), of=nodes)
