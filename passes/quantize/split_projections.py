"""split_projections: the linear layer of queries, keys and values becomes one for each.

    slice(linear(x, W, b), rows) == linear(x, W[rows], b[rows])

The same products are computed, and each part gets a scale and codes of its own: a factor of a product of activations
must be symmetric, and queries are larger than values.

Conditions:
- all that is read of the layer are slices of step 1 that do not overlap, taken from it or from one view of it;
- the view keeps the slices whole rows of W: a reshape that splits the features, a permute.

Before:
    program(%x: f32[1, 2, 1]) {
      @qkv.weight: f32[6, 1] = [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]
      %y: f32[1, 2, 6] = linear(%x, @qkv.weight, none)
      %r: f32[1, 2, 3, 2] = reshape(%y, [1, 2, 3, 2])
      %p: f32[3, 1, 2, 2] = permute(%r, [2, 0, 1, 3])
      %q: f32[1, 1, 2, 2] = slice.Tensor(%p, 0, 0, 1, 1)
      %k: f32[1, 1, 2, 2] = slice.Tensor(%p, 0, 1, 2, 1)
      return (%q, %k)
    }

After:
    program(%x: f32[1, 2, 1]) {
      @qkv.weight_0_2: f32[2, 1] = [[1.0], [2.0]]
      @qkv.weight_2_4: f32[2, 1] = [[3.0], [4.0]]
      %linear: f32[1, 2, 2] = linear(%x, @qkv.weight_0_2, none)
      %reshape: f32[1, 2, 1, 2] = reshape(%linear, [1, 2, 1, 2])
      %permute: f32[1, 1, 2, 2] = permute(%reshape, [2, 0, 1, 3])
      %linear_1: f32[1, 2, 2] = linear(%x, @qkv.weight_2_4, none)
      %reshape_1: f32[1, 2, 1, 2] = reshape(%linear_1, [1, 2, 1, 2])
      %permute_1: f32[1, 1, 2, 2] = permute(%reshape_1, [2, 0, 1, 3])
      return (%permute, %permute_1)
    }
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.ops import is_call
from ...ir.program import Program
from ...ir.rules import Expr, Replacement, Rule, Weight
from ..base import Numerics, Pass
from ..normalize.spelling import aten, call, shape_of


@dataclass(frozen=True)
class Parts:
    """Slices of a linear layer: the views between, the layer first, and rows of W to one step of a slice."""

    linear: fx.Node
    views: tuple[fx.Node, ...]
    step: int


def parts_of_linear(source: fx.Node, dim: int) -> Parts | None:
    """What lies between a slice along `dim` of `source` and a linear layer that nobody else reads."""
    views: list[fx.Node] = []
    step = 1
    while not is_call(source, aten.linear.default):
        args: Any = source.args
        inner = args[0] if is_call(source, aten.permute.default, aten.reshape.default) else None
        if not isinstance(inner, fx.Node) or len(inner.users) != 1:
            return None
        if is_call(source, aten.permute.default):
            dim = args[1][dim]
        else:
            at = _split_from(shape_of(inner), shape_of(source), dim)
            if at is None:
                return None
            dim, step = at[0], step * at[1]
        views.insert(0, source)
        source = inner
    return Parts(source, tuple(views), step) if dim == len(shape_of(source)) - 1 else None


def _split_from(before: Sequence[int], after: Sequence[int], dim: int) -> tuple[int, int] | None:
    """(dimension, elements a step) of `before` whose outermost part is `dim` of `after`; None if there is none."""
    head = math.prod(after[:dim])
    for place, extent in enumerate(before):
        if math.prod(before[:place]) != head or extent == 1:
            continue
        covered = 1
        for inner in after[dim:]:
            covered *= inner
            if covered == extent:
                return place, extent // after[dim]
        return None
    return None


def split(node: fx.Node, program: Program) -> Replacement | None:
    """All slices of a layer at once, seen from the value that they are taken from."""
    if not node.users or not all(is_call(user, aten.slice.Tensor) for user in node.users):
        return None
    slices: dict[fx.Node, Any] = {user: user.args for user in node.users}
    dims = {args[1] for args in slices.values()}
    ranges = sorted((args[2], args[3]) for args in slices.values())
    apart = all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))
    if len(dims) != 1 or len(slices) < 2 or not apart or any(args[4] != 1 for args in slices.values()):
        return None
    (dim,) = dims
    parts = parts_of_linear(node, dim)
    if parts is None or any(not _constant(part) for part in parts.linear.args[1:]):
        return None
    covers = (node, *parts.views, parts.linear)
    return Replacement({user: _part(user, parts, program) for user in slices}, tuple(dict.fromkeys(covers)))


def _constant(part: Any) -> bool:
    return part is None or (isinstance(part, fx.Node) and part.op == "get_attr")


def _part(node: fx.Node, parts: Parts, program: Program) -> Expr:
    """One slice's own layer, with the views that stood between applied to it."""
    taken: Any = node.args
    start, end = taken[2] * parts.step, taken[3] * parts.step
    x, weight, bias = parts.linear.args
    rows = [_rows(part, start, end, program) for part in (weight, bias)]
    value: Expr = call(aten.linear.default, x, *rows)
    dim, length = len(shape_of(parts.linear)) - 1, end - start
    for view in parts.views:
        if is_call(view, aten.permute.default):
            given: Any = view.args
            order: list[int] = given[1]
            value, dim = call(aten.permute.default, value, order), order.index(dim)
            continue
        dim, shape, length = _follow(view, dim, length)
        value = call(aten.reshape.default, value, shape)
    return value


def _follow(view: fx.Node, dim: int, length: int) -> tuple[int, list[int], int]:
    """The sliced dimension behind a reshape, the part's shape there, and its extent."""
    before, after = shape_of(view.all_input_nodes[0]), shape_of(view)
    head = math.prod(before[:dim])
    for place, extent in enumerate(after):
        if math.prod(after[:place]) == head and extent != 1:
            step = before[dim] // extent
            return place, [*after[:place], length // step, *after[place + 1 :]], length // step
    raise AssertionError(f"{view.name} does not split dimension {dim}.")


def _rows(part: Any, start: int, end: int, program: Program) -> Weight | None:
    if part is None:
        return None
    return Weight(f"{part.target}_{start}_{end}", program.weights[str(part.target)][start:end].clone())


@dataclass(frozen=True)
class SplitProjections(Pass):
    """Give each part of a linear layer that is taken apart a layer of its own."""

    name: ClassVar[str] = "split_projections"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """One rule."""
        return (("split_projections", split),)
