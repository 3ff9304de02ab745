"""merge_views: two changes of shape in a row are one, and one that changes nothing is none.

    reshape(reshape(x)) == reshape(x);   permute(permute(x, p), q) == permute(x, p[q]);
    expand(expand(x)) == expand(x);   slice(slice(x)) == slice(x);   permute that only moves unit dimensions == reshape

Conditions:
- values only move, so every bit stays; the first of the two is kept for its other readers.

Before:
    program(%x: f32[1, 4, 6]) {
      %a: f32[4, 6] = reshape(%x, [4, 6])
      %b: f32[24] = reshape(%a, [24])
      %c: f32[10] = slice.Tensor(%b, 0, 2, 22, 2)
      %d: f32[3] = slice.Tensor(%c, 0, 1, 10, 3)
      %e: f32[1, 6, 4] = permute(%x, [0, 2, 1])
      %f: f32[6, 1, 4] = permute(%e, [1, 0, 2])
      return (%d, %f)
    }

After:
    program(%x: f32[1, 4, 6]) {
      %reshape: f32[24] = reshape(%x, [24])
      %slice_1: f32[3] = slice.Tensor(%reshape, 0, 4, 17, 6)
      %permute: f32[6, 1, 4] = permute(%x, [2, 0, 1])
      return (%slice_1, %permute)
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.ops import is_call
from ...ir.program import Program
from .spelling import OpPass, Respell, Verdict, args_of, aten, call, replace_by, shape_of


def reshape(node: fx.Node, program: Program) -> Verdict:
    """Of a reshape, or to the same shape."""
    x: fx.Node = args_of(node)[0]
    if shape_of(x) == shape_of(node):
        return replace_by(node, x)
    if is_call(x, aten.reshape.default):
        return replace_by(node, call(aten.reshape.default, args_of(x)[0], shape_of(node)))
    return None


def permute(node: fx.Node, program: Program) -> Verdict:
    """Of a permutation, to the same order, or past unit dimensions only."""
    x, order = args_of(node)
    shape = shape_of(x)
    if list(order) == sorted(order):
        return replace_by(node, x)
    if is_call(x, aten.permute.default):
        first: Any = args_of(x)[1]
        return replace_by(node, call(aten.permute.default, args_of(x)[0], [first[d] for d in order]))
    long = [d for d in order if shape[d] != 1]
    if long == sorted(long):
        return replace_by(node, call(aten.reshape.default, x, shape_of(node)))
    return None


def expand(node: fx.Node, program: Program) -> Verdict:
    """Of an expansion, to the same shape, or by unit dimensions in front only."""
    x: fx.Node = args_of(node)[0]
    shape, target = shape_of(x), shape_of(node)
    if shape == target:
        return replace_by(node, x)
    if is_call(x, aten.expand.default):
        return replace_by(node, call(aten.expand.default, args_of(x)[0], target))
    if [1] * (len(target) - len(shape)) + shape == target:
        return replace_by(node, call(aten.reshape.default, x, target))
    return None


def slice_(node: fx.Node, program: Program) -> Verdict:
    """Of a slice along the same dimension, or the whole."""
    x, dim, start, end, step = args_of(node)
    if shape_of(x) == shape_of(node):
        return replace_by(node, x)
    if not is_call(x, aten.slice.Tensor) or args_of(x)[1] != dim:
        return None
    source, _, first, _, stride = args_of(x)
    places = range(int(first), shape_of(source)[dim], int(stride))[start:end:step]
    last = places[-1] + 1 if places else places.start
    return replace_by(node, call(aten.slice.Tensor, source, dim, places.start, last, places.step))


def cat(node: fx.Node, program: Program) -> Verdict:
    """Of neighbouring slices that together are the whole again."""
    operands, dim = args_of(node)
    first: Any = operands[0]
    source = first.args[0] if is_call(first, aten.slice.Tensor) else None
    if source is None or shape_of(source) != shape_of(node):
        return None
    place = 0
    for operand in operands:
        part = args_of(operand) if is_call(operand, aten.slice.Tensor) else ()
        if part[:3] != (source, dim, place) or part[4] != 1:
            return None
        place = part[3]
    return replace_by(node, source)


TABLE: Mapping[Any, Respell] = {
    aten.reshape.default: reshape,
    aten.permute.default: permute,
    aten.expand.default: expand,
    aten.slice.Tensor: slice_,
    aten.cat.default: cat,
}


@dataclass(frozen=True)
class MergeViews(OpPass):
    """Merge neighbouring changes of shape and drop those that change nothing."""

    name: ClassVar[str] = "merge_views"
    table: ClassVar[Mapping[Any, Respell]] = TABLE
