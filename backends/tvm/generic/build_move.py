"""Ops that move elements: views, concatenation, padding, gathers.

out[i] == in[where(i)]        or a constant, where the index falls outside
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..compat import tirx
from ..kernels.emit import Expr
from ..views import source_index
from .region import RegionBuilder, output_shape
from .stage import Field

aten = torch.ops.aten


def build_view(b: RegionBuilder, node: fx.Node) -> Field:
    """reshape, permute, expand, slice, flip, roll."""
    source = b[node.args[0]]
    return b.field(*output_shape(node), lambda i: source.at([b.f.simplify(j) for j in source_index(node, i)]))


def build_cat(b: RegionBuilder, node: fx.Node) -> Field:
    """cat along one axis: each element asks which part it lies in."""
    parts: Any = node.args[0]
    shape, dtype = output_shape(node)
    dim = int(node.args[1]) % len(shape)  # type: ignore[arg-type]
    fields = [b[p] for p in parts if b[p].shape[dim : dim + 1] and b[p].shape[dim]]

    def at(index: Sequence[Expr]) -> Expr:
        return pick(index, fields, 0)

    def pick(index: Sequence[Expr], rest: Sequence[Field], start: int) -> Expr:
        here = [*index[:dim], index[dim] - start, *index[dim + 1 :]]
        if len(rest) == 1:
            return rest[0].at(here)
        end = start + rest[0].shape[dim]
        return b.either(index[dim] < end, lambda: rest[0].at(here), lambda: pick(index, rest[1:], end))

    return b.field(shape, dtype, at)


def build_constant_pad(b: RegionBuilder, node: fx.Node) -> Field:
    """constant_pad_nd: pads are given for the last axis first; negative ones cut."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    low = low_pads(node, len(shape))
    value = tirx.const(node.args[2], dtype)

    def at(index: Sequence[Expr]) -> Expr:
        where = [i - p if p else i for i, p in zip(index, low, strict=True)]
        conditions = []
        for axis, i in enumerate(where):
            if low[axis] > 0:
                conditions.append(i >= 0)
            if shape[axis] - low[axis] > source.shape[axis]:
                conditions.append(i < source.shape[axis])
        return b.guard(both(conditions), lambda: source.at(where), value)

    return b.field(shape, dtype, at)


def build_pad(b: RegionBuilder, node: fx.Node) -> Field:
    """Pad by reflection or by copies of the edge."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    low = low_pads(node, len(shape))
    reflect = node.args[2] == "reflect"

    def at(index: Sequence[Expr]) -> Expr:
        where = []
        for i, p, extent, grown in zip(index, low, source.shape, shape, strict=True):
            if extent == grown and p == 0:
                where.append(i)
            elif reflect:
                j = tirx.abs(i - p)
                where.append(extent - 1 - tirx.abs(extent - 1 - j))
            else:
                where.append(tirx.max(tirx.min(i - p, extent - 1), 0))
        return source.at(where)

    return b.field(shape, dtype, at)


def low_pads(node: fx.Node, rank: int) -> list[int]:
    """Padding before each axis."""
    pads: Any = node.args[1]
    low = [0] * rank
    for number in range(len(pads) // 2):
        low[rank - 1 - number] = int(pads[2 * number])
    return low


def both(conditions: Sequence[Expr]) -> Expr:
    """All of them; True if there is none."""
    return tirx.all(*conditions) if len(conditions) > 1 else conditions[0] if conditions else True


def build_triangle(b: RegionBuilder, node: fx.Node) -> Field:
    """tril and triu."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    diagonal = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
    lower = node.target is aten.tril.default

    def at(index: Sequence[Expr]) -> Expr:
        row, column = index[-2], index[-1]
        keep = column <= row + diagonal if lower else column >= row + diagonal
        return tirx.Select(keep, source.at(index), tirx.const(0, dtype))

    return b.field(shape, dtype, at)


def build_embedding(b: RegionBuilder, node: fx.Node) -> Field:
    """embedding: rows of a table."""
    table, places = b[node.args[0]], b[node.args[1]]
    rank = len(places.shape)
    rows = table.shape[0]

    def at(index: Sequence[Expr]) -> Expr:
        return table.at([row_of(places.at(index[:rank]), rows), *index[rank:]])

    return b.field(*output_shape(node), at)


def build_index_select(b: RegionBuilder, node: fx.Node) -> Field:
    """index_select along one axis."""
    source, places = b[node.args[0]], b[node.args[2]]
    dim = int(node.args[1]) % max(1, len(source.shape))  # type: ignore[arg-type]

    def at(index: Sequence[Expr]) -> Expr:
        row = row_of(places.at([index[dim]] if places.shape else []), source.shape[dim])
        return source.at([*index[:dim], row, *index[dim + 1 :]])

    return b.field(*output_shape(node), at)


def build_gather(b: RegionBuilder, node: fx.Node) -> Field:
    """gather along one axis."""
    source, places = b[node.args[0]], b[node.args[2]]
    dim = int(node.args[1]) % max(1, len(source.shape))  # type: ignore[arg-type]

    def at(index: Sequence[Expr]) -> Expr:
        row = row_of(places.at(index), source.shape[dim])
        return source.at([*index[:dim], row, *index[dim + 1 :]])

    return b.field(*output_shape(node), at)


def build_index(b: RegionBuilder, node: fx.Node) -> Field:
    """index.Tensor: integer tensors for some axes, broadcast against each other; where they are adjacent, in place."""
    source = b[node.args[0]]
    given: Any = node.args[1]
    axes = [d for d, t in enumerate(given) if t is not None]
    fields = {d: b[given[d]] for d in axes}
    rank = max(len(f.shape) for f in fields.values())
    start = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    free = [d for d in range(len(source.shape)) if d not in axes]

    def at(index: Sequence[Expr]) -> Expr:
        inner = index[start : start + rank]
        rest = iter([*index[:start], *index[start + rank :]])
        kept = {d: next(rest) for d in free}
        where = []
        for d in range(len(source.shape)):
            if d in kept:
                where.append(kept[d])
                continue
            field = fields[d]
            aligned = inner[rank - len(field.shape) :]
            own = [0 if e == 1 else i for i, e in zip(aligned, field.shape, strict=True)]
            where.append(row_of(field.at(own), source.shape[d], negative=True))
        return source.at(where)

    return b.field(*output_shape(node), at)


def row_of(value: Expr, extent: int, negative: bool = False) -> Expr:
    """An index read from memory, kept inside the table: a wrong one must not read foreign memory."""
    row = tirx.Cast("int32", value) if str(value.ty.dtype) != "int32" else value
    if negative:
        row = tirx.Select(row < 0, row + extent, row)
    return tirx.max(tirx.min(row, extent - 1), 0)
