"""Softmax and norms of rows in integers, with the bits of `ir/quantized/rows.py`, which has the formulas.

Everything of a row that is not of an element (reciprocals, roots, shifts) is a stage with one value a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ....ir.ops import integer_name
from ....ir.quantized.fixed import EXP2_FRACTION
from ....ir.quantized.rows import FARTHEST, fraction, row_length, spare
from ..compat import tirx
from ..kernels.dot import wrapped
from ..kernels.emit import Expr
from ..ops.fixed import bit_length, exp2_below, inverse_root, reciprocal, wide
from ..ops.integer import as_int, clamped, shifted
from ..ops.lanes import once
from ..ops.math import select
from .build_integer import real
from .build_reduce import add, axes_of, over_axes
from .region import RegionBuilder, output_shape
from .stage import Field

I64 = "int64"


def build_integer_softmax(b: RegionBuilder, node: fx.Node) -> Field:
    """softmax: powers of two are computed once and kept."""
    args: Any = node.args
    x, mask, multiplier, by, dim, bits, dtype = args
    source = real(b, x)
    shape = source.shape
    axes = axes_of(dim, len(shape))

    def seen(index: Sequence[Expr], value: Expr, otherwise: Expr) -> Expr:
        return value if mask is None else select(b.operand(mask, index), value, otherwise)

    codes = b.field(shape, "int32", lambda i: seen(i, source.at(i), tirx.const(-(2**31), "int32")))
    most = over_axes(b, codes, axes, tirx.max, -(2**31), "int32")

    def row(index: Sequence[Expr]) -> list[Expr]:
        return [i for d, i in enumerate(index) if d not in axes]

    def power(index: Sequence[Expr]) -> Expr:
        below = as_int(most.at(row(index))) - as_int(source.at(index))
        below = tirx.max(tirx.min(below, wide(FARTHEST)), wide(0))
        octaves = shifted(below * wide(multiplier), by)
        octaves = tirx.max(tirx.min(octaves, wide(31 << EXP2_FRACTION)), wide(0))
        return seen(index, tirx.Cast("int32", exp2_below(once(octaves))), tirx.const(0, "int32"))

    powers = b.store(b.field(shape, "int32", power))
    total = over_axes(b, b.field(shape, I64, lambda i: as_int(powers.at(i))), axes, add, 0, I64)
    excess = b.store(b.field(total.shape, I64, lambda i: bit_length(once(tirx.max(total.at(i), wide(1)))) - wide(31)))

    def mantissa(index: Sequence[Expr]) -> Expr:
        value, over = once(tirx.max(total.at(index), wide(1))), once(excess.at(index))
        down, up = tirx.max(over, wide(0)), tirx.max(wide(0) - over, wide(0))
        return reciprocal(once(select(over >= wide(0), value >> down, tirx.shift_left(value, up))))

    inverse = b.store(b.field(total.shape, I64, mantissa))
    last = Shift(b, total.shape, lambda i: excess.at(i) + wide(61 - bits))
    limit = min(2**bits - 1, torch.iinfo(dtype).max)

    def at(index: Sequence[Expr]) -> Expr:
        share = as_int(powers.at(index)) * inverse.at(row(index))
        return clamped(last.apply(share, row(index)), 0, -(2**31), limit, dtype)

    return b.field(shape, output_shape(node)[1], at)


def build_integer_norm(b: RegionBuilder, node: fx.Node) -> Field:
    """layer_norm and rms_norm: sums of a row, one root, then each element."""
    args: Any = node.args
    x, weight, bias, dims, zero, eps, by, *bounds = args
    source = real(b, x, zero)
    given: torch.Tensor = x.meta["val"]
    count, finer = row_length(given, dims), spare(row_length(given, dims), given.dtype)
    rank = len(source.shape)
    axes = list(range(rank - dims, rank))
    center = integer_name(node) == "layer_norm"
    sums = over_axes(b, source, axes, wrapped, 0, "int32") if center else None
    values = b.field(source.shape, I64, lambda i: as_int(source.at(i)))
    squares = over_axes(b, values, axes, add, 0, I64, lambda v, _: once(v) * once(v))

    def spread(row: Sequence[Expr]) -> Expr:
        result = wide(count) * squares.at(row)
        if sums is not None:
            total = once(as_int(sums.at(row)))
            result = result - total * total
        return tirx.shift_left(result, wide(finer)) + wide(eps)

    root = b.store(b.field(squares.shape, I64, lambda row: inverse_root(once(spread(row)))[0]))
    places = wide(finer // 2 + fraction(count))
    first = Shift(b, squares.shape, lambda row: inverse_root(once(spread(row)))[1] - places)

    def at(index: Sequence[Expr]) -> Expr:
        row = list(index[: rank - dims])
        distance = tirx.const(count, "int32") * source.at(index)  # at most count times the largest span: 31 bits
        if sums is not None:
            distance = distance - sums.at(row)
        unit = first.apply(as_int(distance) * root.at(row), row)
        scaled = unit * as_int(b.operand(weight, index)) + as_int(b.operand(bias, index))
        return clamped(shifted(scaled, by), *bounds)

    return b.field(source.shape, output_shape(node)[1], at)


class Shift:
    """x · 2^-c rounded, ties up, with one c a row, computed once: what c < 1 or c > 62 would need is decided there.

    Above 62 the result is 0. A c < 1 belongs to rows in which x is 0: a norm's without variance, where every distance
    from the mean is 0, and a softmax's that is masked wholly (the sum of any other is 2^30 at least: c >= 60 - bits).
    """

    def __init__(self, b: RegionBuilder, shape: Sequence[int], shift: Callable[[Sequence[Expr]], Expr]) -> None:
        """`shift` gives c by row."""
        given = b.store(b.field(tuple(shape), I64, shift))
        self.right = b.store(b.field(tuple(shape), I64, lambda i: tirx.max(tirx.min(given.at(i), wide(62)), wide(1))))
        self.half = b.store(b.field(tuple(shape), I64, lambda i: tirx.shift_left(wide(1), self.right.at(i) - wide(1))))
        self.kept = b.store(b.field(tuple(shape), I64, lambda i: select(given.at(i) > wide(62), wide(0), wide(-1))))

    def apply(self, x: Expr, row: Sequence[Expr]) -> Expr:
        """x shifted by its row's c."""
        return tirx.bitwise_and((x + self.half.at(row)) >> self.right.at(row), self.kept.at(row))
