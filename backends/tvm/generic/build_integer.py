"""Integer sums of products and windows: exact, in 32 bits that may wrap on the way, as no sum leaves them.

y[...] = sum over r of (x[...] - x_zero) · w[...]        places outside count as x_zero
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from ..kernels.dot import wrapped
from ..kernels.emit import Expr
from ..ops.integer import as_int, centered
from ..ops.math import maximum
from .build_contract import convolve, inner_product, matrix_product
from .build_move import row_of
from .build_reduce import axes_of, dropped, lowest, over_axes
from .build_window import windows
from .region import RegionBuilder, output_shape
from .stage import Field

I32 = "int32"


def real(b: RegionBuilder, node: Any, zero: int = 0, dtype: str = I32) -> Field:
    """The value of a node less its zero point."""
    source = b[node]
    return b.field(source.shape, dtype, lambda i: centered(source.at(i), zero, dtype))


def build_integer_convolution(b: RegionBuilder, node: fx.Node) -> Field:
    """convolution of any rank, grouped or transposed."""
    args: Any = node.args
    x, weight, bias, zero, *geometry = args
    total = convolve(b, node, real(b, x, zero), real(b, weight), geometry, wrapped)
    return _with_bias(b, total, None if bias is None else real(b, bias), 1)


def build_integer_linear(b: RegionBuilder, node: fx.Node) -> Field:
    """linear: the last axis times the transposed weight."""
    args: Any = node.args
    x, weight, bias, zero = args
    total = inner_product(b, node, real(b, x, zero), real(b, weight), wrapped)
    return _with_bias(b, total, None if bias is None else real(b, bias), len(total.shape) - 1)


def _with_bias(b: RegionBuilder, total: Field, bias: Field | None, axis: int) -> Field:
    if bias is None:
        return total
    return b.field(total.shape, I32, lambda i: wrapped(total.at(i), bias.at([i[axis]] if bias.shape else [])))


def build_integer_matmul(b: RegionBuilder, node: fx.Node) -> Field:
    """matmul of vectors, matrices and broadcast batches of them."""
    args: Any = node.args
    left, right, zero = args
    return matrix_product(b, node, real(b, left, zero), real(b, right), wrapped)


def build_integer_sum(b: RegionBuilder, node: fx.Node) -> Field:
    """sum over some axes."""
    args: Any = node.args
    x, dims, keepdim, zero = args
    source = real(b, x, zero)
    axes = axes_of(dims, len(source.shape))
    total = over_axes(b, source, axes, wrapped, 0, I32)
    return b.field(*output_shape(node), lambda i: total.at(dropped(i, axes, keepdim)))


def build_sum_pool(b: RegionBuilder, node: fx.Node) -> Field:
    """Sums over windows; padding adds nothing."""
    args: Any = node.args
    x, zero, kernel, stride, pad, _ = args
    reach = list(zip(kernel, stride, pad, [1] * len(kernel), strict=True))
    return windows(b, node, real(b, x, zero), reach, wrapped, 0)


def build_integer_max_pool(b: RegionBuilder, node: fx.Node) -> Field:
    """The largest code of each window. One that meets no element is the least int64, whose low bits are 0."""
    args: Any = node.args
    x, kernel, stride, pad, dilation, _ = args
    reach = list(zip(kernel, stride, pad, dilation, strict=True))
    shape, dtype = output_shape(node)
    source = b[x]
    if _all_meet(source.shape[-len(reach) :], shape[-len(reach) :], reach):
        return windows(b, node, source, reach, maximum, lowest(dtype))
    wide = windows(b, node, real(b, x, 0, "int64"), reach, maximum, lowest("int64"))
    return b.field(shape, dtype, lambda i: as_int(wide.at(i), dtype))


def _all_meet(extents: Sequence[int], outs: Sequence[int], reach: Sequence[tuple[int, int, int, int]]) -> bool:
    """Whether each window has an element inside the image."""
    return all(
        any(0 <= o * stride - pad + k * dilation < extent for k in range(kernel))
        for extent, out, (kernel, stride, pad, dilation) in zip(extents, outs, reach, strict=True)
        for o in range(out)
    )


def build_resize(b: RegionBuilder, node: fx.Node) -> Field:
    """Weighted sums of few neighbours along one axis."""
    args: Any = node.args
    x, places, weights, dim, zero = args
    source, where, factors = real(b, x, zero), b[places], real(b, weights)
    shape, dtype = output_shape(node)
    axis = int(dim) % len(shape)

    def value(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
        row = row_of(where.at([*r, index[axis]]), source.shape[axis])
        return source.at([*index[:axis], row, *index[axis + 1 :]]) * factors.at([*r, index[axis]])

    return b.reduce(shape, where.shape[:1], value, wrapped, 0, dtype)
