"""canonicalize_slices: one op for reading a part, one for putting parts together.

    select, narrow, split, chunk, unbind, ... == slice(x, dim, start, end, step);   stack == reshape, cat;
    slice_scatter, select_scatter == cat of what stays and what is put in;   x[mask] = v is where(mask, v, x)

Conditions:
- bounds are non-negative and within the extent, dimensions counted from the front;
- `cat` loses its empty operands; values only move, so every bit stays.

Before:
    program(%x: f32[6, 4], %y: f32[6]) {
      %s: (f32[4, 4], f32[2, 4]) = split.Tensor(%x, 4, 0)
      %b: f32[2, 4] = getitem(%s, 1)
      %c: f32[2] = select.int(%b, 1, -1)
      %d: f32[2, 2] = stack([%c, %c], -1)
      return %d
    }

After:
    program(%x: f32[6, 4], %y: f32[6]) {
      %slice_1: f32[2, 4] = slice.Tensor(%x, 0, 4, 6, 1)
      %slice_2: f32[2, 1] = slice.Tensor(%slice_1, 1, 3, 4, 1)
      %reshape: f32[2] = reshape(%slice_2, [2])
      %reshape_1: f32[2, 1] = reshape(%reshape, [2, 1])
      %reshape_2: f32[2, 1] = reshape(%reshape, [2, 1])
      %cat: f32[2, 2] = cat([%reshape_1, %reshape_2], 1)
      return %cat
    }
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Expr, Weight
from .spelling import OpPass, Respell, Verdict, args_of, aten, call, positive_dim, replace_by, shape_of, value_of

SPLITS = frozenset(
    {
        aten.split.Tensor,
        aten.split.sizes,
        aten.split_copy.Tensor,
        aten.split_with_sizes.default,
        aten.split_with_sizes_copy.default,
        aten.chunk.default,
        aten.tensor_split.sections,
        aten.tensor_split.indices,
        aten.unsafe_split.Tensor,
        aten.unsafe_split_with_sizes.default,
        aten.unsafe_chunk.default,
    }
)
UNBINDS = frozenset({aten.unbind.int, aten.unbind_copy.int})


def slice_(node: fx.Node, program: Program) -> Verdict:
    """`slice` and `narrow` with plain bounds."""
    given = arguments(node)
    x: fx.Node = given["self"]
    shape = shape_of(x)
    dim = positive_dim(given["dim"], len(shape))
    if "length" in given:
        start = given["start"] + shape[dim] if given["start"] < 0 else given["start"]
        given = {**given, "start": start, "end": start + given["length"]}
    start, end, step = slice(given["start"], given["end"], given.get("step", 1)).indices(shape[dim])
    return replace_by(node, call(aten.slice.Tensor, x, dim, start, max(start, end), step))


def select(node: fx.Node, program: Program) -> Verdict:
    """One place along a dimension, which goes away."""
    x, dim, index = args_of(node)
    return replace_by(node, _select(x, dim, index))


def part(node: fx.Node, program: Program) -> Verdict:
    """One result of a split or an unbind."""
    source, index = args_of(node)
    if not isinstance(source, fx.Node) or source.target not in SPLITS | UNBINDS:
        return None
    x: fx.Node = args_of(source)[0]
    given = arguments(source)
    if source.target in UNBINDS:
        return replace_by(node, _select(x, given["dim"], index), source)
    dim = positive_dim(given["dim"], len(shape_of(x)))
    extents = [int(piece.shape[dim]) for piece in source.meta["val"]]
    place = int(index) % len(extents)
    start = sum(extents[:place])
    return replace_by(node, call(aten.slice.Tensor, x, dim, start, start + extents[place], 1), source)


def concatenate(node: fx.Node, program: Program) -> Verdict:
    """`cat` without empty operands."""
    operands: list[fx.Node] = [operand for operand in args_of(node)[0] if shape_of(operand) != [0]]
    if not operands:
        return None
    dim = positive_dim(arguments(node)["dim"], len(shape_of(operands[0])))
    full = [operand for operand in operands if shape_of(operand)[dim]] or operands[:1]
    if len(full) == 1 and value_of(full[0]).dtype == value_of(node).dtype:
        return replace_by(node, full[0])
    return replace_by(node, call(aten.cat.default, full, dim))


def stack(node: fx.Node, program: Program) -> Verdict:
    """`cat` along a new dimension."""
    operands: list[fx.Node] = list(args_of(node)[0])
    shape = shape_of(operands[0])
    dim = positive_dim(arguments(node)["dim"], len(shape) + 1)
    apart = [*shape[:dim], 1, *shape[dim:]]
    columns: list[Expr] = [call(aten.reshape.default, operand, apart) for operand in operands]
    return replace_by(node, columns[0] if len(columns) == 1 else call(aten.cat.default, columns, dim))


def select_scatter(node: fx.Node, program: Program) -> Verdict:
    """`x` with one place along a dimension replaced."""
    x, source, given_dim, index = args_of(node)
    shape = shape_of(x)
    dim = positive_dim(given_dim, len(shape))
    start = positive_dim(index, shape[dim])
    column = call(aten.reshape.default, source, [*shape[:dim], 1, *shape[dim + 1 :]])
    return replace_by(node, _replace_part(x, column, dim, start, start + 1))


def slice_scatter(node: fx.Node, program: Program) -> Verdict:
    """`x` with a part along a dimension replaced; every n-th place by a choice under a constant mask."""
    given = arguments(node)
    x, source = given["self"], given["src"]
    shape = shape_of(x)
    dim = positive_dim(given["dim"], len(shape))
    start, end, step = slice(given["start"], given["end"], given["step"]).indices(shape[dim])
    places = range(start, end, step)
    if not places:
        return replace_by(node, x)
    if step == 1:
        target = [*shape[:dim], len(places), *shape[dim + 1 :]]
        return replace_by(node, _replace_part(x, call(aten.expand.default, source, target), dim, start, end))
    inside = torch.zeros(shape[dim], dtype=torch.bool)
    inside[start:end:step] = True
    rank = (inside.cumsum(0) - 1).clamp(min=0)
    spread = call(aten.index_select.default, source, dim, Weight(f"{node.name}_places", rank))
    mask = Weight(f"{node.name}_mask", inside.reshape([-1] + [1] * (len(shape) - dim - 1)))
    return replace_by(node, call(aten.where.self, mask, spread, x))


def copy(node: fx.Node, program: Program) -> Verdict:
    """`copy(x, source)`: the source in x's shape and dtype."""
    source: Any = args_of(node)[1]
    result: Expr = call(aten.expand.default, source, shape_of(node))
    if value_of(source).dtype != value_of(node).dtype:
        result = call(aten._to_copy.default, result, dtype=value_of(node).dtype)
    return replace_by(node, result)


def embedding(node: fx.Node, program: Program) -> Verdict:
    """Training's arguments (padding row, gradient scale) left at their defaults."""
    return replace_by(node, call(aten.embedding.default, *args_of(node)[:2]))


def dim_argument(node: fx.Node, program: Program) -> Verdict:
    """`index_select`, `gather`...: the dimension counted from the front."""
    given = arguments(node)
    dim = positive_dim(given["dim"], len(shape_of(given["self"])))
    return replace_by(node, call(node.target, args_of(node)[0], dim, *args_of(node)[2:], **node.kwargs))


def index(node: fx.Node, program: Program) -> Verdict:
    """`x[:, rows, columns]` with constant places in neighbouring dimensions: one `index_select`."""
    x, indices = args_of(node)
    used = [dim for dim, places in enumerate(indices) if places is not None]
    places = [_places(indices[dim], program) for dim in used]
    if not used or used != list(range(used[0], used[-1] + 1)) or any(p is None for p in places):
        return None
    shape, first, last = shape_of(x), used[0], used[-1] + 1
    flat = torch.zeros((), dtype=torch.int64)
    for dim, place in zip(used, places, strict=True):
        assert place is not None  # checked above
        flat = flat * shape[dim] + torch.where(place < 0, place + shape[dim], place)
    if flat.numel() == 0:
        return None
    rows = call(aten.reshape.default, x, [*shape[:first], math.prod(shape[first:last]), *shape[last:]])
    source: Expr = rows if len(used) > 1 else x
    name = f"{indices[first].target}_flat"
    taken = call(aten.index_select.default, source, first, Weight(name, flat.reshape(-1)))
    return replace_by(node, call(aten.reshape.default, taken, shape_of(node)))


def _places(reader: Any, program: Program) -> torch.Tensor | None:
    """Constant integer places along one dimension."""
    if not isinstance(reader, fx.Node) or reader.op != "get_attr":
        return None
    tensor = program.weights[str(reader.target)]
    return tensor.to(torch.int64) if tensor.dtype in (torch.int64, torch.int32) else None


def flip(node: fx.Node, program: Program) -> Verdict:
    """Dimensions counted from the front, ascending."""
    x: fx.Node = args_of(node)[0]
    dims = sorted(positive_dim(d, len(shape_of(x))) for d in args_of(node)[1])
    return replace_by(node, call(aten.flip.default, x, dims) if dims else x)


def roll(node: fx.Node, program: Program) -> Verdict:
    """Shifts within the extent, dimensions counted from the front; without dimensions, of the flattened input."""
    x: fx.Node = args_of(node)[0]
    shape, shifts, dims = shape_of(x), args_of(node)[1], args_of(node)[2]
    if not dims:
        length = value_of(x).numel()
        flat = call(aten.reshape.default, x, [length])
        moved = call(aten.roll.default, flat, [shifts[0] % max(length, 1)], [0])
        return replace_by(node, call(aten.reshape.default, moved, shape))
    places = [positive_dim(d, len(shape)) for d in dims]
    steps = [s % max(shape[d], 1) for s, d in zip(shifts, places, strict=True)]
    return replace_by(node, call(aten.roll.default, x, steps, places))


def _select(x: Any, dim: Any, index: Any) -> Expr:
    shape = shape_of(x)
    dim = positive_dim(dim, len(shape))
    start = positive_dim(index, shape[dim])
    part = call(aten.slice.Tensor, x, dim, start, start + 1, 1)
    return call(aten.reshape.default, part, [*shape[:dim], *shape[dim + 1 :]])


def _replace_part(x: Any, source: Expr, dim: int, start: int, end: int) -> Expr:
    extent = shape_of(x)[dim]
    parts: list[Expr] = [source]
    if start > 0:
        parts.insert(0, call(aten.slice.Tensor, x, dim, 0, start, 1))
    if end < extent:
        parts.append(call(aten.slice.Tensor, x, dim, end, extent, 1))
    return source if len(parts) == 1 else call(aten.cat.default, parts, dim)


def masked_write(node: fx.Node, program: Program) -> Verdict:
    """x[mask] = v is where(mask, v, x), if v does not depend on how many places the mask picks."""
    x, places, value, accumulate = args_of(node)[:4]
    leading = next((i for i, place in enumerate(places) if place is not None), len(places))
    mask = places[leading] if len(places) == leading + 1 else None
    if mask is None or value_of(mask).dtype is not torch.bool:
        return None
    inner = len(shape_of(x)) - leading - len(shape_of(mask))
    if value_of(value).numel() != 1 and len(shape_of(value)) > inner:
        return None
    spread = call(aten.reshape.default, mask, [*[1] * leading, *shape_of(mask), *[1] * inner])
    new: Expr = value if len(shape_of(value)) <= inner else call(aten.reshape.default, value, [])
    return replace_by(node, call(aten.where.self, spread, call(aten.add.Tensor, x, new) if accumulate else new, x))


TABLE: Mapping[Any, Respell] = {
    aten.slice.Tensor: slice_,
    aten.slice_copy.Tensor: slice_,
    aten.narrow.default: slice_,
    aten.narrow_copy.default: slice_,
    aten.select.int: select,
    aten.select_copy.int: select,
    operator.getitem: part,
    aten.cat.default: concatenate,
    aten.concat.default: concatenate,
    aten.concatenate.default: concatenate,
    aten.stack.default: stack,
    aten.select_scatter.default: select_scatter,
    aten.slice_scatter.default: slice_scatter,
    aten.copy.default: copy,
    aten.embedding.default: embedding,
    aten.index_select.default: dim_argument,
    aten.gather.default: dim_argument,
    aten.index.Tensor: index,
    aten._unsafe_index.Tensor: index,
    aten.index_put.default: masked_write,
    aten._unsafe_index_put.default: masked_write,
    aten.flip.default: flip,
    aten.roll.default: roll,
}


@dataclass(frozen=True)
class CanonicalizeSlices(OpPass):
    """Spell reading and putting together of parts as slice and cat."""

    name: ClassVar[str] = "canonicalize_slices"
    table: ClassVar[Mapping[Any, Respell]] = TABLE
