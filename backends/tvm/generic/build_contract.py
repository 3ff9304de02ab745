"""Products summed over an axis, for what the templates refuse: linear, matmul, convolutions of every kind, attention.

linear[m, n] = sum over k of x[m, k] * w[n, k]  (+ b[n])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import torch
from torch import fx

from ..compat import tirx
from ..kernels.emit import Expr
from ..ops import math
from ..views import broadcast_index
from .build_move import both
from .build_reduce import add, lowest, over_axes
from .build_window import window_conditions
from .region import RegionBuilder, output_shape
from .stage import Field

aten = torch.ops.aten
Combine = Callable[[Expr, Expr], Expr]


def build_linear(b: RegionBuilder, node: fx.Node) -> Field:
    """linear: the last axis times the transposed weight."""
    bias = node.args[2] if len(node.args) > 2 else None
    total = inner_product(b, node, b[node.args[0]], b[node.args[1]], add)
    if bias is None:
        return total
    return b.field(*output_shape(node), lambda i: total.at(i) + b.operand(bias, i))


def inner_product(b: RegionBuilder, node: fx.Node, x: Field, w: Field, combine: Combine) -> Field:
    """The sums of a linear layer."""
    shape, dtype = output_shape(node)
    vector = len(w.shape) == 1

    def value(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
        lead = list(index) if vector else list(index[:-1])
        return x.at([*lead, *r]) * w.at([*r] if vector else [index[-1], *r])

    return b.reduce(shape, x.shape[-1:], value, combine, 0, dtype)


def build_matmul(b: RegionBuilder, node: fx.Node) -> Field:
    """matmul of vectors, matrices and broadcast batches of them."""
    return matrix_product(b, node, b[node.args[0]], b[node.args[1]], add)


def matrix_product(b: RegionBuilder, node: fx.Node, x: Field, y: Field, combine: Combine) -> Field:
    """The sums of a product of two activations."""
    shape, dtype = output_shape(node)
    left, right = len(x.shape) > 1, len(y.shape) > 1

    def value(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
        batch = list(index[: len(index) - left - right])
        rest = list(index[len(batch) :])
        row = [*broadcast_index(batch, x.shape[:-2]), rest[0]] if left else []
        column = [rest[-1]] if right else []
        lead = broadcast_index(batch, y.shape[:-2]) if right else []
        return x.at([*row, *r]) * y.at([*lead, *r, *column])

    return b.reduce(shape, x.shape[-1:], value, combine, 0, dtype)


def build_convolution(b: RegionBuilder, node: fx.Node) -> Field:
    """convolution of any rank, dtype, grouping, and transposed."""
    attributes: Any = node.args[2:9]
    bias, *geometry = attributes
    total = convolve(b, node, b[node.args[0]], b[node.args[1]], geometry, add)
    if bias is None:
        return total
    return b.field(*output_shape(node), lambda i: total.at(i) + b.operand_at(bias, [i[1]]))


def convolve(b: RegionBuilder, node: fx.Node, x: Field, w: Field, geometry: Sequence[Any], combine: Combine) -> Field:
    """The sums of a convolution."""
    stride, pad, dilation, transposed, _, groups = geometry
    shape, dtype = output_shape(node)
    space, taps = x.shape[2:], w.shape[2:]
    reach = list(zip(taps, stride, pad, dilation, strict=True))
    per_in = x.shape[1] // groups
    per_out = shape[1] // groups
    zero = tirx.const(0, dtype)

    def value(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
        group = index[1] // per_out
        channel = group * per_in + r[0]
        if transposed:
            where, taken, conditions = _transposed_places(index[2:], r[1:], space, reach)
            inside, weight = both(conditions), [channel, index[1] % per_out, *taken]
        else:
            where = [o * s - p + k * d for o, k, (_, s, p, d) in zip(index[2:], r[1:], reach, strict=True)]
            inside, weight = window_conditions(where, space, shape[2:], reach), [index[1], *r]
        return b.guard(inside, lambda: x.at([index[0], channel, *where]) * w.at(weight), zero)

    steps = [_transposed_taps(*k) for k in reach] if transposed else taps
    return b.reduce(shape, (int(per_in), *steps), value, combine, 0, dtype)


def _transposed_taps(kernel: int, stride: int, pad: int, dilation: int) -> int:
    """How many taps of a transposed convolution may meet one output element."""
    return -(-kernel // stride) if dilation == 1 else kernel


def _transposed_places(
    out: Sequence[Expr], r: Sequence[Expr], space: Sequence[int], reach: Sequence[tuple[int, int, int, int]]
) -> tuple[list[Expr], list[Expr], list[Expr]]:
    """(input index, tap, conditions) of the r-th tap that meets an output element: o + pad = stride i + dilation k."""
    where: list[Expr] = []
    taps: list[Expr] = []
    conditions: list[Expr] = []
    for o, k, extent, (kernel, stride, pad, dilation) in zip(out, r, space, reach, strict=True):
        moved = o + pad
        if dilation == 1:
            tap, i = moved % stride + k * stride, moved // stride - k
            conditions += [tap < kernel] if kernel % stride else []
        else:
            tap, i = k, (moved - k * dilation) // stride
            conditions += [(moved - k * dilation) % stride == 0] if stride > 1 else []
        where.append(i)
        taps.append(tap)
        conditions += [i >= 0, i < extent]
    return where, taps, conditions


def build_attention(b: RegionBuilder, node: fx.Node) -> Field:
    """scaled_dot_product_attention: scores, mask, softmax and values of one query at a time."""
    q, k, v = (b[a] for a in node.args[:3])
    mask: Any = node.args[3] if len(node.args) > 3 else None
    causal = bool(node.args[5]) if len(node.args) > 5 else False
    given: Any = node.kwargs.get("scale")
    shape, dtype = output_shape(node)
    scale = 1 / sqrt(q.shape[-1]) if given is None else float(given)
    rows = (*shape[:-1], k.shape[-2])
    shared = q.shape[-3] // k.shape[-3] if node.kwargs.get("enable_gqa") and len(q.shape) > 2 else 1

    def batch(index: Sequence[Expr], of: Field) -> list[Expr]:
        lead = list(index[:-1])
        if shared > 1:
            lead[-1] = lead[-1] // shared
        return broadcast_index(lead, of.shape[:-2])

    def product(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
        mine = [*broadcast_index(index[:-2], q.shape[:-2]), index[-2], *r]
        return q.at(mine) * k.at([*batch(index[:-1], k), index[-1], *r])

    dots = b.reduce(rows, q.shape[-1:], product, add, 0, dtype)
    nothing = tirx.const(float("-inf"), dtype)

    def score(index: Sequence[Expr]) -> Expr:
        value = dots.at(index) * tirx.const(scale, dtype)
        if mask is not None:
            seen = b.operand(mask, index)
            value = tirx.Select(seen, value, nothing) if b[mask].dtype == "bool" else value + seen
        return tirx.Select(index[-1] <= index[-2], value, nothing) if causal else value

    scores = b.field(rows, dtype, score)
    axis = [len(rows) - 1]
    largest = over_axes(b, scores, axis, math.maximum, lowest(dtype), dtype)

    def shift(index: Sequence[Expr]) -> Expr:
        m = largest.at(index)
        return tirx.Select(tirx.EQ(m, nothing), tirx.const(0.0, dtype), m)

    powers = b.store(b.field(rows, dtype, lambda i: math.exp(score(i) - shift(i[:-1]))))
    total = over_axes(b, powers, axis, add, 0, dtype)

    def weighted(index: Sequence[Expr], r: Sequence[Expr]) -> Expr:
        return powers.at([*index[:-1], *r]) * v.at([*batch(index[:-1], v), *r, index[-1]])

    summed = b.reduce(shape, k.shape[-2:-1], weighted, add, 0, dtype)

    def at(index: Sequence[Expr]) -> Expr:
        weight = total.at(index[:-1])
        zero = tirx.const(0.0, dtype)
        return tirx.Select(tirx.EQ(weight, zero), zero, summed.at(index) / weight)

    return b.field(shape, dtype, at)
