"""Index maps of views: a view moves no element, it renames them.

out[i] == in[source_index(view, i)]            for every view
out[forward_index(view, j)] == in[j]           for the bijective ones: reshape, permute, flip, roll
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import fx

from .compat import structural_walk, tirx, tvm
from .plan import computed_dtype

Expr = Any

aten = torch.ops.aten
BIJECTIVE = (aten.reshape.default, aten.permute.default, aten.flip.default, aten.roll.default)
VIEWS = (*BIJECTIVE, aten.expand.default, aten.slice.Tensor)


def is_view(node: fx.Node) -> bool:
    """Whether `node` only renames elements."""
    return node.op == "call_function" and node.target in VIEWS


def is_bijective(node: fx.Node) -> bool:
    """Whether `node` is a view that keeps every element exactly once."""
    return node.op == "call_function" and node.target in BIJECTIVE


def shape_of(node: Any) -> tuple[int, ...]:
    """Static shape of a node's value."""
    return tuple(int(d) for d in node.meta["val"].shape)


def dtype_of(node: Any) -> str:
    """Dtype that kernels compute a node's value in, as "float32"."""
    return computed_dtype(str(node.meta["val"].dtype).removeprefix("torch."))


def source_index(node: fx.Node, index: Sequence[Expr]) -> list[Expr]:
    """Where the element of the view's result at `index` lies in its argument."""
    source: Any = node.args[0]
    shape = shape_of(source)
    args: tuple[Any, ...] = node.args[1:]
    if node.target is aten.reshape.default:
        return reshape_index(index, shape_of(node), shape)
    if node.target is aten.permute.default:
        return [index[list(args[0]).index(axis)] for axis in range(len(shape))]
    if node.target is aten.expand.default:
        return broadcast_index(index, shape)
    if node.target is aten.flip.default:
        return [shape[a] - 1 - i if a in args[0] else i for a, i in enumerate(index)]
    if node.target is aten.roll.default:
        return _rolled(node, index, sign=-1)
    assert node.target is aten.slice.Tensor, f"{node.target} is no view"
    dim, start, _, step = _slice(args)
    return [i * step + start if a == dim else i for a, i in enumerate(index)]


def forward_index(node: fx.Node, index: Sequence[Expr]) -> list[Expr]:
    """Where the element of a bijective view's argument at `index` lies in its result."""
    source: Any = node.args[0]
    if node.target is aten.reshape.default:
        return reshape_index(index, shape_of(source), shape_of(node))
    if node.target is aten.permute.default:
        dims: Any = node.args[1]
        return [index[axis] for axis in dims]
    if node.target is aten.roll.default:
        return _rolled(node, index, sign=1)
    assert node.target is aten.flip.default, f"{node.target} is no bijective view"
    return source_index(node, index)


def memory_strides(node: fx.Node) -> list[int]:
    """Distance in memory of neighbours along each axis of a view of a PLAIN value, seen from its first element."""

    def offset(index: list[Expr]) -> int:
        at = node
        while is_view(at):
            index = source_index(at, index)
            at = at.all_input_nodes[0]
        flat = ravel(index, shape_of(at))
        return int(tvm.sym.Analyzer().simplify(flat)) if not isinstance(flat, int) else flat

    rank = len(shape_of(node))
    first = offset([0] * rank)
    return [
        offset([int(a == axis) for a in range(rank)]) - first if extent > 1 else 0
        for axis, extent in enumerate(shape_of(node))
    ]


def broadcast_index(index: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
    """Index into an operand of `shape` that is broadcast to where `index` points."""
    aligned = index[len(index) - len(shape) :]
    return [0 if extent == 1 else i for i, extent in zip(aligned, shape, strict=True)]


def reshape_index(index: Sequence[Expr], shape: Sequence[int], target: Sequence[int]) -> list[Expr]:
    """The index in `target` of the element that `index` names in `shape` (both row-major).

    Runs of axes with equal products are mapped each for itself, so that an axis that the reshape keeps
    keeps its index unchanged.
    """
    result: list[Expr] = []
    for old, new in _matching_runs(shape, target):
        flat = ravel([index[a] for a in old], [shape[a] for a in old])
        extents = [target[a] for a in new]
        for position, extent in enumerate(extents):
            inner = prod(extents[position + 1 :])
            part = flat if inner == 1 else tirx.floordiv(flat, inner)
            result.append(0 if extent == 1 else part if position == 0 else tirx.floormod(part, extent))
    return result


def ravel(index: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """Row-major flat index."""
    flat: Expr = 0
    for i, extent in zip(index, shape, strict=True):
        flat = i if isinstance(flat, int) and flat == 0 else flat * extent + i
    return flat


def _matching_runs(shape: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Cut both shapes into the shortest runs of axes with equal products."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(target):
        old, new = [], []
        left = right = 1
        if i < len(shape):
            left, old, i = shape[i], [i], i + 1
        if j < len(target):
            right, new, j = target[j], [j], j + 1
        while left != right:
            if (left < right and i < len(shape)) or j == len(target):
                left, old, i = left * shape[i], [*old, i], i + 1
            else:
                right, new, j = right * target[j], [*new, j], j + 1
        runs.append((old, new))
    return runs


def _slice(args: Sequence[Any]) -> tuple[int, int, int, int]:
    """(dim, start, end, step) of aten.slice.Tensor, normalized bounds assumed."""
    dim, start, end, step = list(args) + [0, 0, 0, 1][len(args) :]
    return int(dim), int(start or 0), int(end or 0), int(step)


def _rolled(node: fx.Node, index: Sequence[Expr], sign: int) -> list[Expr]:
    """Add the shifts, modulo the extents."""
    shifts: Any = node.args[1]
    dims: Any = node.args[2] if len(node.args) > 2 else ()
    shape = shape_of(node.args[0])
    moved = list(index)
    for shift, dim in zip(shifts, dims, strict=True):
        offset = sign * int(shift) % shape[dim]
        if offset:
            moved[dim] = _wrapped(moved[dim], offset, shape[dim])
    return moved


def _wrapped(index: Expr, offset: int, extent: int) -> Expr:
    """(index + offset) % extent. TVM's FlattenBuffer turns ((i + a) % n + b) % n into (i + a) % n: no second `%`."""
    if isinstance(index, int):
        return (index + offset) % extent
    if isinstance(index, tirx.FloorMod) and isinstance(index.b, tirx.IntImm) and int(index.b) == extent:
        return tirx.floormod(index.a + offset, extent)
    found: list[Expr] = []
    structural_walk(index, (tirx.FloorMod, found.append))
    if not found:
        return tirx.floormod(index + offset, extent)
    return index + offset - tirx.Select(index < extent - offset, 0, extent)
