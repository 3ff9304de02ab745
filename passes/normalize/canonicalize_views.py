"""canonicalize_views: three ops for all changes of shape.

    view, flatten, squeeze, unsqueeze, ... == reshape(x, shape);   t, transpose, movedim, ... == permute(x, dims);
    expand_as, broadcast_to, ... == expand(x, shape);   repeat == reshape, expand, reshape

Conditions:
- shapes are written out in full, dimensions counted from the front;
- values stay where they are in logical order, so every bit stays.

Before:
    program(%x: f32[2, 3, 1, 4]) {
      %a: f32[2, 3, 4] = squeeze.dim(%x, 2)
      %b: f32[2, 4, 3] = transpose.int(%a, -1, -2)
      %c: f32[2, 12] = flatten.using_ints(%b, 1, -1)
      return %c
    }

After:
    program(%x: f32[2, 3, 1, 4]) {
      %reshape: f32[2, 3, 4] = reshape(%x, [2, 3, 4])
      %permute: f32[2, 4, 3] = permute(%reshape, [0, 2, 1])
      %reshape_1: f32[2, 12] = reshape(%permute, [2, 12])
      return %reshape_1
    }
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Expr, Refused, Weight
from .spelling import OpPass, Respell, Verdict, args_of, aten, call, positive_dim, replace_by, shape_of


def reshape(node: fx.Node, program: Program) -> Verdict:
    """Anything that only regroups dimensions."""
    return replace_by(node, call(aten.reshape.default, args_of(node)[0], shape_of(node)))


def permute(node: fx.Node, program: Program) -> Verdict:
    """Anything that only reorders dimensions."""
    x: fx.Node = args_of(node)[0]
    return replace_by(node, call(aten.permute.default, x, _order(node, len(shape_of(x)))))


def expand(node: fx.Node, program: Program) -> Verdict:
    """Anything that only repeats unit dimensions."""
    return replace_by(node, call(aten.expand.default, args_of(node)[0], shape_of(node)))


def repeat(node: fx.Node, program: Program) -> Verdict:
    """Whole copies one after another, in each dimension."""
    x, times = args_of(node)[0], list(arguments(node).get("repeats") or arguments(node)["dims"])
    shape = shape_of(x)
    times = [1] * (len(shape) - len(times)) + times
    shape = [1] * (len(times) - len(shape)) + shape
    return replace_by(node, _repeat(x, shape, times, inner=False))


def repeat_interleave(node: fx.Node, program: Program) -> Verdict:
    """Copies of each element next to each other."""
    x, count, dim = args_of(node)[:3]
    shape = shape_of(x)
    if dim is None:
        shape, dim = [math.prod(shape)], 0
    times = [1] * len(shape)
    times[positive_dim(dim, len(shape))] = count
    return replace_by(node, _repeat(x, shape, times, inner=True))


def unfold(node: fx.Node, program: Program) -> Verdict:
    """Windows along a dimension: regrouped where they meet, gathered where they overlap."""
    x, given_dim, size, step = args_of(node)
    shape = shape_of(x)
    dim = positive_dim(given_dim, len(shape))
    count = (shape[dim] - size) // step + 1
    source: Any = x
    if size != step or count * size != shape[dim]:
        places = torch.arange(count)[:, None] * step + torch.arange(size)
        source = call(aten.index_select.default, x, dim, Weight(f"{node.name}_places", places.reshape(-1)))
    split = call(aten.reshape.default, source, [*shape[:dim], count, size, *shape[dim + 1 :]])
    order = [d for d in range(len(shape) + 1) if d != dim + 1] + [dim + 1]
    return replace_by(node, call(aten.permute.default, split, order))


def diagonal(node: fx.Node, program: Program) -> Verdict:
    """Read the flattened matrix at every (columns + 1)-th place."""
    x, offset, one, two = args_of(node)
    shape = shape_of(x)
    first, second = (positive_dim(d, len(shape)) for d in (one, two))
    rows, columns = shape[first], shape[second]
    rest = [d for d in range(len(shape)) if d not in (first, second)]
    flat_shape = [*(shape[d] for d in rest), rows * columns]
    flat = call(aten.reshape.default, call(aten.permute.default, x, [*rest, first, second]), flat_shape)
    length = shape_of(node)[-1]
    start = offset if offset >= 0 else -offset * columns
    end = start + (length - 1) * (columns + 1) + 1
    if length == 0:
        return Refused("it is empty", node)
    return replace_by(node, call(aten.slice.Tensor, flat, len(rest), start, end, columns + 1))


def _order(node: fx.Node, rank: int) -> list[int]:
    """The permutation a call stands for."""
    target: Any = node.target
    if target in (aten.permute.default, aten.permute_copy.default):
        return [positive_dim(d, rank) for d in args_of(node)[1]]
    if target in MOVES:
        return _moved(args_of(node)[1], args_of(node)[2], rank)
    order = list(range(rank))
    if target is aten.numpy_T.default:
        return order[::-1]
    if rank < 2:
        return order
    first, second = (positive_dim(d, rank) for d in (args_of(node)[1:3] or (-2, -1)))
    order[first], order[second] = order[second], order[first]
    return order


def _moved(sources: Any, targets: Any, rank: int) -> list[int]:
    froms = [positive_dim(d, rank) for d in ([sources] if isinstance(sources, int) else sources)]
    tos = [positive_dim(d, rank) for d in ([targets] if isinstance(targets, int) else targets)]
    rest = iter([d for d in range(rank) if d not in froms])
    place = dict(zip(tos, froms, strict=True))
    return [place[d] if d in place else next(rest) for d in range(rank)]


def _repeat(x: Any, shape: Sequence[int], times: Sequence[int], *, inner: bool) -> Expr:
    """Insert a dimension for each repeated one (after it when `inner`), expand it, and merge the two."""
    apart: list[int] = []
    wide: list[int] = []
    for extent, count in zip(shape, times, strict=True):
        pairs = [(extent, extent)] if count == 1 else [(1, count), (extent, extent)]
        for unit, full in reversed(pairs) if inner else pairs:
            apart.append(unit)
            wide.append(full)
    merged = [extent * count for extent, count in zip(shape, times, strict=True)]
    spread = call(aten.expand.default, call(aten.reshape.default, x, apart), wide)
    return call(aten.reshape.default, spread, merged)


RESHAPES = (
    aten.reshape.default,
    aten.view.default,
    aten.view_copy.default,
    aten._unsafe_view.default,
    aten._reshape_alias.default,
    aten._reshape_copy.default,
    aten.view_as.default,
    aten.reshape_as.default,
    aten.flatten.using_ints,
    aten.ravel.default,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze_copy.default,
    aten.squeeze_copy.dim,
    aten.squeeze_copy.dims,
    aten.unsqueeze.default,
    aten.unsqueeze_copy.default,
    aten.atleast_1d.default,
)
MOVES = (aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist)
PERMUTES = (
    *MOVES,
    aten.permute.default,
    aten.permute_copy.default,
    aten.transpose.int,
    aten.transpose_copy.int,
    aten.t.default,
    aten.t_copy.default,
    aten.numpy_T.default,
    aten.mT.default,
    aten.swapaxes.default,
    aten.swapdims.default,
)
EXPANDS = (aten.expand.default, aten.expand_copy.default, aten.expand_as.default, aten.broadcast_to.default)

TABLE: Mapping[Any, Respell] = {
    **dict.fromkeys(RESHAPES, reshape),
    **dict.fromkeys(PERMUTES, permute),
    **dict.fromkeys(EXPANDS, expand),
    aten.repeat.default: repeat,
    aten.tile.default: repeat,
    aten.repeat_interleave.self_int: repeat_interleave,
    aten.unfold.default: unfold,
    aten.unfold_copy.default: unfold,
    aten.diagonal.default: diagonal,
    aten.diagonal_copy.default: diagonal,
}


@dataclass(frozen=True)
class CanonicalizeViews(OpPass):
    """Spell changes of shape as reshape, permute and expand."""

    name: ClassVar[str] = "canonicalize_views"
    table: ClassVar[Mapping[Any, Respell]] = TABLE
