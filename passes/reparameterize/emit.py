"""Operators written back as calls:  emit(operator, source)  ==  operator(source).

A convolution or a linear layer; an affine as at most one mul and one add; a bias that differs from place to place as
an addition of a map behind the convolution. Cast once, from float64 to the weights' type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...ir.linear import Linear, regroup
from ...ir.rules import Call, Expr, Weight
from ..fold.affine import Affine, value
from ..fold.linear_ops import CONVOLUTION, LINEAR, is_linear_op, name_of, short
from ..fold.lower_batch_norm import normal_form
from .expressions import Space

aten = torch.ops.aten


@dataclass(frozen=True)
class Emitted:
    """An expression and what it costs: extra elementwise passes beside the operator itself.

    `padded` are the elements that an explicit pad writes, if one of the passes is a pad.
    """

    expr: Expr
    passes: int = 0
    padded: int = 0


def emit(op: Linear, source: fx.Node, space: Space, covers: Sequence[fx.Node]) -> Emitted | str:
    """Return calls for an operator that replaces `covers` (the last first); a reason where there are none."""
    linear_ops = [n for n in covers if is_linear_op(n)]
    node = covers[0]
    if not linear_ops:
        if not op.pointwise or not op.uniform(0.0):
            return "it would take a convolution where there is none"
        map_ = Affine(space.axis, op.weight.reshape(-1), op.flat_bias(), None)
        passes = int(bool((map_.scale != 1).any())) + int(bool(map_.shift.any()))
        return Emitted(normal_form(source, value(source).dtype, _scalar(map_), node, covers), passes)
    stem = max(linear_ops, key=lambda n: value(n.args[1]).numel())
    dtype = value(stem.args[1]).dtype
    if space.rank == 0:
        op = regroup(op, 1)
        parts = _parameters(op, op.flat_bias(), stem, dtype)
        return parts if isinstance(parts, str) else Emitted(Call(LINEAR, (source, *parts)))
    return _convolution(op, source, stem, dtype, covers)


def _convolution(
    op: Linear, source: fx.Node, stem: fx.Node, dtype: torch.dtype, covers: Sequence[fx.Node]
) -> Emitted | str:
    """A convolution, behind an explicit pad if there was one before, with a map behind it if the bias is one."""
    x: Expr = source
    padding, passes, padded = list(op.low), 0, 0
    if not _pads_by_itself(op):
        if not any(n.target is aten.constant_pad_nd.default for n in covers):
            return "it would have to pad more at one end than at the other"
        high = _high(op)
        if min(*op.low, *high) < 0:
            return "it would have to cut some ends and pad others"
        widths = [width for pair in zip(reversed(op.low), reversed(high), strict=True) for width in pair]
        x, padding, passes = Call(aten.constant_pad_nd.default, (source, widths, 0.0)), [0] * op.rank, 1
        extents = (sum(sizes) for sizes in zip(op.source, op.low, high, strict=True))
        padded = math.prod((*value(source).shape[: -op.rank], *extents))
    flat = op.uniform(0.0)
    parts = _parameters(op, op.flat_bias() if flat else None, stem, dtype)
    if isinstance(parts, str):
        return parts
    geometry = (list(op.stride), padding, list(op.dilation), False, [0] * op.rank, op.groups)
    call = Call(CONVOLUTION, (x, *parts, *geometry))
    if flat:
        return Emitted(call, passes, padded)
    return Emitted(Call(aten.add.Tensor, (call, Weight(f"{_stem(stem)}map", op.bias.to(dtype)))), passes + 1, padded)


def _pads_by_itself(op: Linear) -> bool:
    """Say whether padding each axis by `low` at both ends gives the extents of the output."""
    return min(op.low, default=0) >= 0 and _extents(op, op.low) == op.target


def _high(op: Linear) -> tuple[int, ...]:
    """What each axis needs at its end: nothing is cut off where no kernel reaches the places left over."""
    same = zip(op.high, _extents(op, (0,) * op.rank), op.target, strict=True)
    return tuple(0 if high < 0 and out == target else high for high, out, target in same)


def _extents(op: Linear, high: tuple[int, ...]) -> tuple[int, ...]:
    """Extents of the output if each axis is padded by `low` and `high`."""
    axes = zip(op.source, op.low, high, op.dilation, op.taps, op.stride, strict=True)
    return tuple((size + low + end - d * (k - 1) - 1) // s + 1 for size, low, end, d, k, s in axes)


def _parameters(op: Linear, bias: Tensor | None, stem: fx.Node, dtype: torch.dtype) -> list[Weight | None] | str:
    """Weight and bias as constants named after the layer that they come from."""
    weight = op.weight.to(dtype).contiguous()
    if not torch.isfinite(weight).all() or (bias is not None and not torch.isfinite(bias.to(dtype)).all()):
        return f"the merged {name_of(stem.args[1])} overflows {short(dtype)}"
    named = Weight(name_of(stem.args[1]), weight)
    if bias is None or not bool(bias.any()):
        return [named, None]
    old: Any = stem.args[2]
    return [named, Weight(f"{_stem(stem)}bias" if old is None else name_of(old), bias.to(dtype).contiguous())]


def _stem(node: fx.Node) -> str:
    """`conv.` for the layer whose weight is `conv.weight`."""
    layer = name_of(node.args[1]).rpartition(".")[0]
    return f"{layer}." if layer else ""


def _scalar(map_: Affine) -> Affine:
    """A map with one number for all channels as a scalar map."""
    same = all(bool((v == v[0]).all()) for v in (map_.scale, map_.shift))
    return Affine(None, map_.scale[:1], map_.shift[:1], map_.dtype) if same else map_
