"""Sliding windows: pools of any rank, and adaptive pools with uneven bins.

out[n, c, o] = combine over k of x[n, c, o*stride - pad + k*dilation]        places outside are left out
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ..compat import tirx
from ..kernels.emit import Expr
from ..ops import math
from .build_move import both
from .build_reduce import add, lowest
from .region import RegionBuilder, output_shape
from .stage import Field

aten = torch.ops.aten
_MAX = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)


def window_conditions(
    where: Sequence[Expr], extents: Sequence[int], shape: Sequence[int], reach: Sequence[Any]
) -> Expr:
    """Whether a place lies in the input; axes on which every place does ask nothing."""
    conditions = []
    for i, extent, out, (kernel, stride, pad, dilation) in zip(where, extents, shape, reach, strict=True):
        if pad > 0:
            conditions.append(i >= 0)
        if (out - 1) * stride - pad + (kernel - 1) * dilation >= extent:
            conditions.append(i < extent)
    return both(conditions)


def build_pool(b: RegionBuilder, node: fx.Node) -> Field:
    """max_pool and avg_pool with all their arguments."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    given: Any = node.args[1:4]
    kernel, stride, pad = (list(a) for a in given)
    largest = node.target in _MAX
    dilation: Any = node.args[4] if largest else [1] * len(kernel)
    reach = list(zip(kernel, stride, pad, dilation, strict=True))
    initial = lowest(dtype) if largest else 0

    total = windows(b, node, source, reach, math.maximum if largest else add, initial)
    if largest:
        return total
    count_padding = node.args[5]
    divisor = node.args[6] if len(node.args) > 6 else None  # avg_pool1d has none

    def at(index: Sequence[Expr]) -> Expr:
        return total.at(index) / _window_size(index[2:], source.shape[2:], reach, bool(count_padding), divisor, dtype)

    return b.field(shape, dtype, at)


def windows(
    b: RegionBuilder,
    node: fx.Node,
    source: Field,
    reach: Sequence[tuple[int, int, int, int]],
    combine: Callable[[Expr, Expr], Expr],
    initial: Any,
) -> Field:
    """Windows of (kernel, stride, padding, dilation) over the last axes, combined; outside there is `initial`."""
    shape = output_shape(node)[0]
    lead = len(shape) - len(reach)
    space = source.shape[lead:]

    def value(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
        where = [o * s - p + k * d for o, k, (_, s, p, d) in zip(index[lead:], r, reach, strict=True)]
        inside = window_conditions(where, space, shape[lead:], reach)
        outside = tirx.const(initial, source.dtype)
        return b.guard(inside, lambda: source.at([*index[:lead], *where]), outside)

    return b.reduce(shape, [kernel for kernel, *_ in reach], value, combine, initial, source.dtype)


def _window_size(
    index: Sequence[Expr], space: Sequence[int], reach: Sequence[Any], count_padding: bool, divisor: Any, dtype: str
) -> Expr:
    """How many places an average is taken over; a window that `ceil_mode` lets stick out counts only to the padding."""
    if divisor is not None:
        return tirx.const(float(divisor), dtype)
    size: Expr = tirx.const(1, "int32")
    for o, extent, (kernel, stride, pad, _) in zip(index, space, reach, strict=True):
        start = o * stride - pad
        if count_padding:
            size = size * (tirx.min(start + kernel, extent + pad) - start)
        else:
            size = size * (tirx.min(start + kernel, extent) - tirx.max(start, 0))
    return tirx.Cast(dtype, size)


def build_adaptive_pool(b: RegionBuilder, node: fx.Node) -> Field:
    """adaptive_avg_pool with bins of different sizes: [floor(o*n/m), ceil((o+1)*n/m))."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    lead = len(shape) - len(node.args[1])  # type: ignore[arg-type]
    pairs = list(zip(source.shape[lead:], shape[lead:], strict=True))
    largest = [max(-(-(o + 1) * n // m) - o * n // m for o in range(m)) for n, m in pairs]

    def bounds(index: Sequence[Expr]) -> list[tuple[Expr, Expr]]:
        return [(o * n // m, ((o + 1) * n + m - 1) // m) for o, (n, m) in zip(index, pairs, strict=True)]

    def value(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
        where, conditions = [], []
        for k, (low, high) in zip(r, bounds(index[lead:]), strict=True):
            where.append(low + k)
            conditions.append(low + k < high)
        return b.guard(both(conditions), lambda: source.at([*index[:lead], *where]), tirx.const(0, dtype))

    total = b.reduce(shape, largest, value, add, 0, dtype)

    def at(index: Sequence[Expr]) -> Expr:
        size: Expr = tirx.const(1, "int32")
        for low, high in bounds(index[lead:]):
            size = size * (high - low)
        return total.at(index) / tirx.Cast(dtype, size)

    return b.field(shape, dtype, at)
