"""Aggregates over axes: sums, means, extrema, products, norms, positions of extrema, running sums.

out[i] = finish(combine over r of x[i, r])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import fx

from ..compat import tirx
from ..kernels.emit import Expr
from ..ops import math
from ..ops.arithmetic import cast
from .region import RegionBuilder, output_shape
from .stage import Field, Stage

aten = torch.ops.aten


def lowest(dtype: str) -> Any:
    """The value that no maximum is below."""
    return float("-inf") if "float" in dtype else int(tirx.min_value(dtype)) if dtype != "bool" else False


def highest(dtype: str) -> Any:
    """The value that no minimum is above."""
    return float("inf") if "float" in dtype else int(tirx.max_value(dtype)) if dtype != "bool" else True


def add(a: Expr, b: Expr) -> Expr:
    """Sum."""
    return a + b


def multiply(a: Expr, b: Expr) -> Expr:
    """Product."""
    return a * b


def divided(x: Expr, count: float, dtype: str) -> Expr:
    """x / max(count, 0); TVM refuses to write a division by the constant 0, which gives NaN or inf."""
    return x / tirx.const(float(count), dtype) if count > 0 else x * tirx.const(float("inf"), dtype)


def axes_of(dims: Any, rank: int) -> list[int]:
    """Axes as numbers from 0; none given means all."""
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(rank))
    given = dims if isinstance(dims, (list, tuple)) else [dims]
    return sorted({int(d) % max(1, rank) for d in given}) if rank else []


def over_axes(
    b: RegionBuilder,
    source: Field,
    axes: Sequence[int],
    combine: Callable[[Expr, Expr], Expr],
    initial: Any,
    dtype: str,
    element: Callable[[Expr, Sequence[Expr]], Expr] = lambda x, index: x,
) -> Stage:
    """A stage over the axes that stay; `element(x, index)` maps each element before it is combined."""
    kept = [d for d in range(len(source.shape)) if d not in axes]

    def value(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
        where: list[Expr] = [0] * len(source.shape)
        for d, i in zip(kept, index, strict=True):
            where[d] = i
        for d, i in zip(axes, r, strict=True):
            where[d] = i
        return element(source.at(where), where)

    shape, extents = [source.shape[d] for d in kept], [source.shape[d] for d in axes]
    return b.reduce(shape, extents, value, combine, initial, dtype)


def dropped(index: Sequence[Expr], axes: Sequence[int], keepdim: bool) -> list[Expr]:
    """The index into a stage without the aggregated axes."""
    return [i for d, i in enumerate(index) if d not in axes] if keepdim else list(index)


def build_reduce(b: RegionBuilder, node: fx.Node) -> Field:
    """sum, mean, amax, amin, prod, any, all over some axes or all."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    args = {a.name: v for a, v in zip(node.target._schema.arguments, node.args, strict=False)}  # type: ignore[union-attr]
    axes = axes_of(args.get("dim"), len(source.shape))
    keepdim = bool(args.get("keepdim", False))
    name = node.target._schema.name.split("::")[1]  # type: ignore[union-attr]
    combine, initial = {
        "sum": (add, 0),
        "mean": (add, 0),
        "prod": (multiply, 1),
        "amax": (math.maximum, lowest(dtype)),
        "max": (math.maximum, lowest(dtype)),
        "amin": (math.minimum, highest(dtype)),
        "min": (math.minimum, highest(dtype)),
        "any": (tirx.max, 0),
        "all": (tirx.min, 1),
    }[name]
    truth = name in ("any", "all")
    if dtype == "bool":
        combine = tirx.Or if name in ("any", "amax", "max") else tirx.And

    def element(x: Expr, index: Sequence[Expr]) -> Expr:
        return cast(cast(x, "bool") if truth else x, dtype)  # any and all of uint8 are uint8

    total = over_axes(b, source, axes, combine, initial, dtype, element)
    count = prod(source.shape[d] for d in axes)

    def at(index: Sequence[Expr]) -> Expr:
        result = total.at(dropped(index, axes, keepdim))
        return divided(result, count, dtype) if name == "mean" else result

    return b.field(shape, dtype, at)


def build_argument(b: RegionBuilder, node: fx.Node) -> Field:
    """argmax and argmin: the first place of the extremum; a NaN is one."""
    source = _as_numbers(b[node.args[0]])
    shape, dtype = output_shape(node)
    rank = len(source.shape)
    dim = node.args[1] if len(node.args) > 1 else None
    axes = axes_of(dim, rank)
    keepdim = bool(node.args[2]) if len(node.args) > 2 else False
    largest = node.target is aten.argmax.default
    extremum, initial = (math.maximum, lowest) if largest else (math.minimum, highest)
    best = over_axes(b, source, axes, extremum, initial(source.dtype), source.dtype)
    floating = "float" in source.dtype

    def element(x: Expr, index: Sequence[Expr]) -> Expr:
        place: Expr = tirx.const(0, "int32")
        for d in axes:
            place = place * source.shape[d] + index[d]
        found = best.at([i for d, i in enumerate(index) if d not in axes])
        equal = tirx.Or(tirx.EQ(x, found), math.isnan(x)) if floating else tirx.EQ(x, found)
        return tirx.Select(equal, place, tirx.const(2**31 - 1, "int32"))

    first = over_axes(b, source, axes, tirx.min, 2**31 - 1, "int32", element)
    keep = keepdim and dim is not None
    return b.field(
        shape, dtype, lambda i: tirx.Cast(dtype, first.at(dropped(i, axes, keep) if dim is not None else []))
    )


def _as_numbers(source: Field) -> Field:
    """Truth values as 0 and 1."""
    if source.dtype != "bool":
        return source
    return Field(source.shape, "int8", lambda i: tirx.Cast("int8", source.at(i)))


def build_logsumexp(b: RegionBuilder, node: fx.Node) -> Field:
    """log(sum(exp(x))), by the largest element: nothing overflows."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    axes = axes_of(node.args[1], len(source.shape))
    keepdim = bool(node.args[2]) if len(node.args) > 2 else False
    largest = over_axes(b, source, axes, lambda m, x: math.larger(x, m), lowest(dtype), dtype)

    def shift(index: Sequence[Expr]) -> Expr:
        m = largest.at(index)
        return tirx.Select(tirx.EQ(math.absolute(m), tirx.const(float("inf"), dtype)), tirx.const(0.0, dtype), m)

    def element(x: Expr, index: Sequence[Expr]) -> Expr:
        return math.exp_flushed(x - shift([i for d, i in enumerate(index) if d not in axes]))

    total = over_axes(b, source, axes, add, 0, dtype, element)

    def at(index: Sequence[Expr]) -> Expr:
        where = dropped(index, axes, keepdim)
        return math.ln(total.at(where)) + shift(where)

    return b.field(shape, dtype, at)


def build_norm(b: RegionBuilder, node: fx.Node) -> Field:
    """linalg_vector_norm of order 1, 2, inf, -inf or 0."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    order = float(node.args[1])  # type: ignore[arg-type]
    axes = axes_of(node.args[2] if len(node.args) > 2 else None, len(source.shape))
    keepdim = bool(node.args[3]) if len(node.args) > 3 else False
    elements: dict[float, tuple[Any, Any, Callable[[Expr], Expr]]] = {
        1.0: (add, 0, math.absolute),
        2.0: (add, 0, lambda x: x * x),
        float("inf"): (math.maximum, 0, math.absolute),
        float("-inf"): (math.minimum, float("inf"), math.absolute),
        0.0: (add, 0, lambda x: tirx.Cast(dtype, tirx.NE(x, tirx.const(0, dtype)))),
    }
    combine, initial, element = elements[order]
    total = over_axes(b, source, axes, combine, initial, dtype, lambda x, _: element(x))

    def at(index: Sequence[Expr]) -> Expr:
        result = total.at(dropped(index, axes, keepdim))
        return tirx.sqrt(result) if order == 2.0 else result

    return b.field(shape, dtype, at)


def build_cumulative(b: RegionBuilder, node: fx.Node) -> Field:
    """cumsum and cumprod: the axis is walked in order; a long one in blocks, where nothing else is parallel."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    if not shape:
        return b.field(shape, dtype, lambda i: tirx.Cast(dtype, source.at([])))
    dim = int(node.args[1]) % len(shape)  # type: ignore[arg-type]
    combine, initial = (add, 0) if node.target is aten.cumsum.default else (multiply, 1)
    if shape[dim] > _SCAN and prod(shape) < _SCANS * shape[dim]:
        return _scan_in_blocks(b, source, dim, combine, initial, shape, dtype)
    return b.reduce(shape, (), lambda i, _: source.at(i), combine, initial, dtype, scan=dim)


_SCAN, _SCANS = 256, 64
"""Shortest axis that is cut into blocks; as many running sums side by side are parallel without."""


def _scan_in_blocks(
    b: RegionBuilder,
    source: Field,
    dim: int,
    combine: Callable[[Expr, Expr], Expr],
    initial: int,
    shape: Sequence[int],
    dtype: str,
) -> Field:
    """Running sums within blocks, of the blocks' totals, and both combined; blocks depend on the shape alone.

    The length of a block is an odd number of vectors: neighbouring blocks begin in different sets of the cache.
    """
    wide = "float64" if dtype == "float32" else dtype
    length = 16 * (shape[dim] // (16 * _SCANS) | 1)
    blocks = -(-shape[dim] // length)
    before, after = list(shape[:dim]), list(shape[dim + 1 :])

    def element(index: Sequence[Expr], _: Sequence[Expr]) -> Expr:
        at = index[dim] * length + index[dim + 1]
        where = [*index[:dim], at, *index[dim + 2 :]]
        inside = at < shape[dim] if blocks * length > shape[dim] else True
        return b.guard(inside, lambda: cast(cast(source.at(where), dtype), wide), tirx.const(initial, wide))

    inner = b.reduce([*before, blocks, length, *after], (), element, combine, initial, wide, scan=dim + 1)

    def total(index: Sequence[Expr], _: Sequence[Expr]) -> Expr:
        last = inner.at([*index[:dim], tirx.max(index[dim] - 1, 0), length - 1, *index[dim + 1 :]])
        return tirx.Select(index[dim] == 0, tirx.const(initial, wide), last)

    offsets = b.reduce([*before, blocks, *after], (), total, combine, initial, wide, scan=dim)

    def at(index: Sequence[Expr]) -> Expr:
        block, rest = index[dim] // length, index[dim] % length
        mine = inner.at([*index[:dim], block, rest, *index[dim + 1 :]])
        return cast(combine(offsets.at([*index[:dim], block, *index[dim + 1 :]]), mine), dtype)

    return b.field(shape, dtype, at)
