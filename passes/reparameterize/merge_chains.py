"""merge_chains: convolutions or linear layers in a row with nothing between them become one, where that saves work.

    conv(conv(x; W1, b1); W2, b2)  ==  conv(x; W2 * W1, W2 b1 + b2)

Affines, pads, frames of constants and subsampling between the two, or before the first, go with them.

Conditions:
- nobody else reads what stands between;
- where the second pads, the first has one tap along that axis; and what it pads with is the first one's bias, or the
  bias that results, a map over places, is cheaper to add than what is saved;
- the one operator takes no more multiply-adds than the chain (low-rank factors and depthwise-separable pairs stay).

Before:
    program(%x: f32[1, 2]) normalized {
      @a.weight: f32[3, 2] = [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]
      @a.bias: f32[3] = [1.0, 0.0, -1.0]
      @b.weight: f32[1, 3] = [[1.0, 2.0, 3.0]]
      %a: f32[1, 3] = linear(%x, @a.weight, @a.bias)   # a
      %b: f32[1, 1] = linear(%a, @b.weight, none)   # b
      return %b
    }

After:
    program(%x: f32[1, 2]) normalized {
      @a.weight_1: f32[1, 2] = [[4.0, 7.0]]
      @a.bias_1: f32[1] = [-2.0]
      %linear: f32[1, 1] = linear(%x, @a.weight_1, @a.bias_1)   # b, a
      return %linear
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ...ir.linear import Linear
from ...ir.program import Program
from ...ir.rules import Refused, Replacement, Rule
from ..base import Pass
from ..fold.affine import uses, value, wider
from ..fold.linear_ops import is_linear_op, named, short
from .emit import emit
from .expressions import Expressions, dtype_of, space_of


@dataclass(frozen=True)
class MergeChains(Pass):
    """Multiply the weights of linear operators in a row."""

    name: ClassVar[str] = "merge_chains"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at the last operator of each chain."""
        return (("merge_chains", merge),)


def merge(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Merge the chain that ends at `node`; the longest part of it that pays."""
    if not is_linear_op(node):
        return None
    read = Expressions(program, space_of(node))
    chain = [node]
    while (source := read.input(chain[-1])) is not None and uses(source) == 1:
        chain.append(source)
        if len(chain) > LONGEST:
            break
    links = [i for i, link in enumerate(chain) if i and is_linear_op(link) and read.input(link) is not None]
    framed = [i for i, link in enumerate(chain) if i and (read.frame(link) is not None or read.is_crop(link))]
    reason = None
    for end in sorted({*links, *framed}, reverse=True):
        start = read.input(chain[end])
        assert start is not None
        found = _merged(read, node, start)
        if isinstance(found, Replacement):
            return found
        reason = found if end in links[:1] else reason
    return Refused(reason, node) if reason else None


LONGEST = 8
"""Steps of one chain."""


def _merged(read: Expressions, node: fx.Node, source: fx.Node) -> Replacement | str:
    """The chain from `source` to `node` as one operator, or why not."""
    covers = list(read.covered(node, source))
    op = read.operator(node, source)
    if isinstance(op, str):
        return op
    before, now = sum(map(read.work, covers)), op.work * read.space.samples(node)
    inner = ", ".join(named(n) for n in covers[1:] if is_linear_op(n))
    if now > before:
        return f"one operator would take {now} multiply-adds where {named(node)} after {inner} take {before}"
    return _written(read, node, source, op, covers)


def _written(
    read: Expressions, node: fx.Node, source: fx.Node, op: Linear, covers: Sequence[fx.Node]
) -> Replacement | str:
    dtype, given = value(node.args[1]).dtype, dtype_of(iter(covers), read.program)
    if wider(dtype, given) != dtype:
        return f"it would lose precision: {short(given)} constants do not fit a {short(dtype)} weight"
    written = emit(op, source, read.space, covers)
    if isinstance(written, str):
        return written
    saved = sum(map(read.work, covers)) - op.work * read.space.samples(node) - written.padded
    if written.padded and saved <= 0:
        return "the one operator would need a pad of its own, which costs what is saved"
    if saved < 2 * (written.passes - bool(written.padded)) * value(node).numel():
        return "its bias differs from place to place, and adding that costs what is saved"
    return Replacement({node: written.expr}, covers=tuple(covers[1:]))
