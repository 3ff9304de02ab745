"""merge_branches: parallel linear branches over one value that are added up become one.

    sum_i conv(x; W_i, b_i)  ==  conv(x; sum_i W_i, sum_i b_i)      every W_i laid on the lattice that holds all taps

A branch is a chain of convolutions, linear layers, per-channel affines (batch norms, gains, layer scales), average
poolings, pads, frames of constants, and sums of such; or the value itself. This is what re-parameterizable blocks
(RepVGG, MobileOne, ACNet, diverse branches, RepLKNet, RepMixer...), low-rank adapters and averaged heads are made of.

Conditions:
- nobody else reads what is inside a branch;
- branches have one stride; where a branch pads something it computed, its bias comes out equal at every place;
- the one operator takes no more multiply-adds than the branches did;
- the weights' type holds what the branches were given in.

Before:
    program(%x: f32[1, 1, 4]) normalized {
      @c3.weight: f32[1, 1, 3] = [[[1.0, 2.0, 3.0]]]
      @c3.bias: f32[1] = [0.5]
      @c1.weight: f32[1, 1, 1] = [[[10.0]]]
      @bn.weight: f32[1] = [2.0]
      @bn.bias: f32[1] = [0.25]
      @bn.mean: f32[1] = [1.0]
      @bn.var: f32[1] = [4.0]
      %c3: f32[1, 1, 4] = convolution(%x, @c3.weight, @c3.bias, [1], [1], [1], false, [0], 1)   # c3
      %c1: f32[1, 1, 4] = convolution(%x, @c1.weight, none, [1], [0], [1], false, [0], 1)   # c1
      %add: f32[1, 1, 4] = add.Tensor(%c3, %c1)
      %bn: f32[1, 1, 4] = batch_norm(%x, @bn.weight, @bn.bias, @bn.mean, @bn.var, false, 0.1, 0.0, false)   # n
      %add_1: f32[1, 1, 4] = add.Tensor(%add, %bn)
      %relu: f32[1, 1, 4] = relu(%add_1)
      return %relu
    }

After:
    program(%x: f32[1, 1, 4]) normalized {
      @c3.weight_1: f32[1, 1, 3] = [[[1.0, 13.0, 3.0]]]
      @c3.bias_1: f32[1] = [-0.25]
      %convolution: f32[1, 1, 4] = convolution(%x, @c3.weight_1, @c3.bias_1, [1], [1], [1], false, [0], 1)   # c3, c1, n
      %relu: f32[1, 1, 4] = relu(%convolution)
      return %relu
    }
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir import linear
from ...ir.linear import Linear
from ...ir.program import Program
from ...ir.rules import Call, Refused, Replacement, Rule
from ..base import Pass
from ..fold.affine import read, uses, value, wider
from ..fold.linear_ops import is_linear_op, named, short
from .emit import Emitted, emit
from .expressions import DEEPEST, Expressions, Space, dtype_of, is_sum, space_of

aten = torch.ops.aten

MOST = 64
"""Terms of one sum that are looked at."""


@dataclass(frozen=True)
class MergeBranches(Pass):
    """Add up the weights of parallel linear branches."""

    name: ClassVar[str] = "merge_branches"

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule, tried at the last addition of each sum."""
        return (("merge_branches", merge),)


def merge(node: fx.Node, program: Program) -> Replacement | Refused | None:
    """Merge the terms of the sum that ends at `node` that are linear in one value."""
    if not is_sum(node) or (uses(node) == 1 and is_sum(next(iter(node.users)))):
        return None
    if value(node).dim() == 0:
        return None  # a number has no channels
    sum_ = _Sum(node, program)
    reason = None
    for source in sum_.shared():
        found = sum_.merged(source)
        if isinstance(found, Replacement):
            return found
        reason = reason or found
    return Refused(reason, node) if reason else None


@dataclass(frozen=True, eq=False)
class Term:
    """One summand: `sign * op(source)`, the nodes that compute it, and what they cost."""

    node: fx.Node
    op: Linear
    covers: tuple[fx.Node, ...]
    work: int


def open_sum(root: fx.Node) -> tuple[list[tuple[fx.Node, float]], list[fx.Node]]:
    """The summands with their signs, and the additions, the last first; sums that nobody else reads are opened."""
    terms: list[tuple[fx.Node, float]] = []
    sums: list[fx.Node] = []
    todo: list[tuple[Any, float]] = [(root, 1.0)]
    while todo:
        node, sign = todo.pop()
        if is_sum(node) and (node is root or uses(node) == 1) and len(sums) < MOST:
            sums.append(node)
            left, right = node.args[:2]
            todo += [(right, sign if node.target is aten.add.Tensor else -sign), (left, sign)]
        else:
            terms.append((node, sign))
    return terms, sums


class _Sum:
    """The flattened sum that ends at one node."""

    def __init__(self, root: fx.Node, program: Program) -> None:
        self.root, self.program = root, program
        self.terms, self.sums = open_sum(root)
        self.read = Expressions(program, self._space())
        self.sources = [self.read.beyond(node) for node, _ in self.terms]

    def _space(self) -> Space:
        """The space of the first convolution or linear layer in the terms; else that of an affine."""
        axis = None
        for term, _ in self.terms:
            for node in _chain(term):
                if is_linear_op(node):
                    return space_of(node)
                found = read(node, self.program)
                axis = found[1].axis if axis is None and found else axis
        return Space(value(self.root).dim() - 1 if axis is None else axis, 0)

    def shared(self) -> list[fx.Node]:
        """Values of which several terms are expressions; those of most terms first, the nearest among them."""
        counts = Counter(source for sources in self.sources for source in sources)
        return sorted((s for s, count in counts.items() if count > 1), key=lambda s: -counts[s])

    def merged(self, source: fx.Node) -> Replacement | str | None:
        """Merge what can be merged of the terms over one value; the reason where nothing can."""
        reasons: list[str] = []
        terms = []
        for (node, sign), sources in zip(self.terms, self.sources, strict=True):
            op = self.read.operator(node, source) if source in sources else "it does not read it"
            if isinstance(op, str):
                reasons += [op] if source in sources else []
                continue
            covers = tuple(self.read.covered(node, source))
            zero = torch.zeros(op.outputs, dtype=torch.float64)
            signed = op if sign == 1.0 else linear.scale(op, zero - 1.0, zero)
            terms.append(Term(node, signed, covers, sum(map(self.read.work, covers))))
        terms.sort(key=lambda term: -term.op.work)
        for i, first in enumerate(terms):
            group = self._grow(first, terms[i + 1 :], reasons)
            if len(group) > 1:
                return self._replace(source, group, reasons) or reasons[-1]
        whole = self._climb(source, terms, reasons) if len(terms) > 1 else None
        return whole or (reasons[0] if reasons and any(is_linear_op(n) for t in terms for n in t.covers) else None)

    def _grow(self, first: Term, others: Sequence[Term], reasons: list[str]) -> list[Term]:
        """The terms that the first can take in without more work than they cost; their sum stands in the first."""
        group = [first]
        for term in others:
            total = linear.add(group[0].op, term.op)
            if isinstance(total, str):
                reasons.append(total)
                continue
            samples = self.read.space.samples(self.root)
            before, now = sum(t.work for t in group) + term.work, total.work * samples
            if now > before and not total.pointwise:
                reasons.append(f"one operator would take {now} multiply-adds where its branches take {before}")
                continue
            group = [replace(group[0], op=total), *group[1:], term]
        return group

    def _climb(self, source: fx.Node, terms: Sequence[Term], reasons: list[str]) -> Replacement | None:
        """Merge all terms and with them the step that made `source`, where only they read it."""
        total: Linear | str = terms[0].op
        for term in terms[1:]:
            total = total if isinstance(total, str) else linear.add(total, term.op)
        inside = {n for term in terms for n in term.covers} | set(self.sums)
        step = self.read.input(source)
        if isinstance(total, str) or step is None or any(user not in inside for user in source.users):
            return None
        op = self.read.settled(linear.compose(total, self.read.step(source)), self.root)
        before = sum(term.work for term in terms) + self.read.work(source)
        if isinstance(op, str) or op.work * self.read.space.samples(self.root) > before:
            return None
        covers = tuple(dict.fromkeys((*terms[0].covers, source, *self.read.covered(source, step))))
        return self._replace(step, [replace(terms[0], op=op, covers=covers), *terms[1:]], reasons)

    def _replace(self, source: fx.Node, group: Sequence[Term], reasons: list[str]) -> Replacement | None:
        """Write the merged operator, and what is left of the sum added to it."""
        op = self.read.settled(group[0].op, self.root)
        assert isinstance(op, Linear)
        covers = tuple(dict.fromkeys(n for term in group for n in term.covers))
        rest = [(node, sign) for node, sign in self.terms if all(node is not term.node for term in group)]
        written = self._write(op, source, covers)
        if isinstance(written, str):
            reasons.append(written)
            return None
        expr = written.expr
        for node, sign in rest:
            expr = Call(aten.add.Tensor if sign > 0 else aten.sub.Tensor, (expr, node))
        return Replacement({self.root: expr}, covers=(*self.sums[1:], *covers))

    def _write(self, op: Linear, source: fx.Node, covers: Sequence[fx.Node]) -> Emitted | str:
        """The calls for an operator, unless they lose precision.

        A pad or a map beside it takes the place of a pad or an addition that was there.
        """
        weights = [value(n.args[1]).dtype for n in covers if is_linear_op(n)]
        given = dtype_of(iter(covers), self.program)
        if weights and wider(weights[0], given) != weights[0]:
            return f"it would lose precision: {short(given)} constants do not fit a {short(weights[0])} weight"
        written = emit(op, source, self.read.space, covers or (self.root,))
        return f"{written} to merge the branches of {named(self.root)}" if isinstance(written, str) else written


def _chain(node: fx.Node) -> Iterator[fx.Node]:
    """A value and what it is made of, along first arguments, for a few steps."""
    for _ in range(DEEPEST):
        yield node
        inputs = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if not inputs or node.op != "call_function":
            return
        node = inputs[0]
