"""Normalizations and softmax: statistics of a row, then a pointwise formula of the row.

layer_norm(x) = (x - mean) * rsqrt(var + eps) * w + b        var = mean((x - mean)^2), in two passes
softmax(x)    = exp(x - max) / sum(exp(x - max))
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
from ..ops.arithmetic import isfinite
from .build_reduce import add, axes_of, divided, dropped, lowest, over_axes
from .region import RegionBuilder, output_shape
from .stage import Field, Stage

aten = torch.ops.aten


def build_layer_norm(b: RegionBuilder, node: fx.Node) -> Field:
    """layer_norm over the last axes."""
    source = b[node.args[0]]
    normalized: Any = node.args[1]
    axes = list(range(len(source.shape) - len(normalized), len(source.shape)))
    return _normalize(b, node, source, axes, float(node.args[4]), node.args[2], node.args[3])  # type: ignore[arg-type]


def build_rms_norm(b: RegionBuilder, node: fx.Node) -> Field:
    """rms_norm over the last axes: x / sqrt(mean(x^2) + eps) * w."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    normalized: Any = node.args[1]
    axes = list(range(len(shape) - len(normalized), len(shape)))
    weight = node.args[2] if len(node.args) > 2 else None
    given: Any = node.args[3] if len(node.args) > 3 else None
    eps = float(torch.finfo(node.meta["val"].dtype).eps) if given is None else float(given)
    count = prod(source.shape[d] for d in axes)
    total = over_axes(b, source, axes, add, 0, dtype, lambda x, _: x * x)

    scale = _inverse_root(b, total.shape, dtype, lambda row: divided(total.at(row), count, dtype), eps)

    def at(index: Sequence[Expr]) -> Expr:
        result = source.at(index) * scale.at([i for d, i in enumerate(index) if d not in axes])
        return result if weight is None else result * b.operand(weight, index)

    return b.field(shape, dtype, at)


def _normalize(
    b: RegionBuilder, node: fx.Node, source: Field, axes: Sequence[int], eps: float, weight: Any, bias: Any
) -> Field:
    shape, dtype = output_shape(node)
    mean, variance = moments(b, source, axes, dtype)
    scale = _inverse_root(b, mean.shape, dtype, variance, eps)

    def at(index: Sequence[Expr]) -> Expr:
        row = [i for d, i in enumerate(index) if d not in axes]
        result = (source.at(index) - mean.at(row)) * scale.at(row)
        if weight is not None:
            result = result * b.operand(weight, index)
        return result if bias is None else result + b.operand(bias, index)

    return b.field(shape, dtype, at)


def moments(
    b: RegionBuilder, source: Field, axes: Sequence[int], dtype: str, correction: float = 0.0
) -> tuple[Stage, Callable[[Sequence[Expr]], Expr]]:
    """The means of all rows, and the variance of a row by its index; two passes, so that nothing cancels."""
    count = prod(source.shape[d] for d in axes)
    total = over_axes(b, source, axes, add, 0, dtype)
    mean = b.store(b.field(total.shape, dtype, lambda row: divided(total.at(row), count, dtype)))

    def squared(x: Expr, index: Sequence[Expr]) -> Expr:
        difference = x - mean.at([i for d, i in enumerate(index) if d not in axes])
        return difference * difference

    squares = over_axes(b, source, axes, add, 0, dtype, squared)
    freedom = count - correction

    def variance(row: Sequence[Expr]) -> Expr:
        return divided(squares.at(row), freedom, dtype)

    return mean, variance


def _inverse_root(
    b: RegionBuilder, shape: Sequence[int], dtype: str, value: Callable[[Sequence[Expr]], Expr], eps: float
) -> Stage:
    """1 / sqrt(value + eps), once a row: in the loop over its elements it would be a division and a root for each."""

    def at(row: Sequence[Expr]) -> Expr:
        return tirx.const(1.0, dtype) / tirx.sqrt(value(row) + tirx.const(eps, dtype))

    return b.store(b.field(shape, dtype, at))


def build_group_norm(b: RegionBuilder, node: fx.Node) -> Field:
    """group_norm: statistics over the channels of a group and all places."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    groups, weight, bias, eps = int(node.args[1]), *node.args[2:5]  # type: ignore[arg-type]
    per = shape[1] // groups
    grouped = b.field(
        (shape[0], groups, per, *shape[2:]), dtype, lambda i: source.at([i[0], i[1] * per + i[2], *i[3:]])
    )
    mean, variance = moments(b, grouped, list(range(2, len(grouped.shape))), dtype)
    scale = _inverse_root(b, mean.shape, dtype, variance, float(eps))  # type: ignore[arg-type]

    def at(index: Sequence[Expr]) -> Expr:
        row = [index[0], b.f.simplify(index[1] // per) if groups < shape[1] else index[1]]
        result = (source.at(index) - mean.at(row)) * scale.at(row)
        if weight is not None:
            result = result * b.operand_at(weight, [index[1]])
        return result if bias is None else result + b.operand_at(bias, [index[1]])

    return b.field(shape, dtype, at)


def build_variance(b: RegionBuilder, node: fx.Node) -> Field:
    """var and std with a correction."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    axes = axes_of(node.args[1] if len(node.args) > 1 else None, len(source.shape))
    given = node.kwargs.get("correction", 1)
    correction = 1.0 if given is None else float(given)  # type: ignore[arg-type]
    keepdim = bool(node.kwargs.get("keepdim", False))
    _, variance = moments(b, source, axes, dtype, correction)

    def at(index: Sequence[Expr]) -> Expr:
        result = variance(dropped(index, axes, keepdim))
        return tirx.sqrt(result) if node.target is aten.std.correction else result

    return b.field(shape, dtype, at)


def build_softmax(b: RegionBuilder, node: fx.Node) -> Field:
    """_softmax and _log_softmax: exponentials are computed once and kept."""
    source = b[node.args[0]]
    shape, dtype = output_shape(node)
    if not shape:
        log = node.target is aten._log_softmax.default
        alone, nan = tirx.const(0.0 if log else 1.0, dtype), tirx.const(float("nan"), dtype)
        return b.field(shape, dtype, lambda i: tirx.Select(isfinite(source.at(i)), alone, nan))
    axes = axes_of(node.args[1], len(shape))
    # NaN need not win here: it makes the sum, and so the whole row, NaN
    largest = over_axes(b, source, axes, lambda m, x: math.larger(x, m), lowest(dtype), dtype)

    def row(index: Sequence[Expr]) -> list[Expr]:
        return [i for d, i in enumerate(index) if d not in axes]

    if node.target is aten._log_softmax.default:
        total = over_axes(b, source, axes, add, 0, dtype, lambda x, i: math.exp_flushed(x - largest.at(row(i))))
        return b.field(shape, dtype, lambda i: source.at(i) - largest.at(row(i)) - math.ln(total.at(row(i))))
    powers = b.store(b.field(shape, dtype, lambda i: math.exp_flushed(source.at(i) - largest.at(row(i)))))
    total = over_axes(b, powers, axes, add, 0, dtype)
    inverse = b.store(b.field(total.shape, dtype, lambda i: tirx.const(1.0, dtype) / total.at(i)))
    return b.field(shape, dtype, lambda i: powers.at(i) * inverse.at(row(i)))
