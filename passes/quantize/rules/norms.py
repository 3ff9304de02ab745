"""Norms of rows: codes in, codes out; nothing is rounded between.

layer_norm, rms_norm: over the last dimensions        group_norm: over the last two of (N, groups, channels, places)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ....ir.ops import arguments, is_call
from ....ir.quantized.constants import norm
from ....ir.quantized.rows import SPANS
from ....ir.types import QuantParams
from ..builder import Builder, constant_of
from ..forms import Form, Target
from ..plan import naming

planish = torch.ops.planish
aten = torch.ops.aten


@dataclass(frozen=True)
class Normed(Form):
    """Rows are the last `dims` dimensions of `shape`, which the codes are reshaped to and back where it is another."""

    codes: fx.Node
    params: QuantParams
    gain: Tensor
    offset: Tensor
    eps: float
    shape: tuple[int, ...]
    dims: int
    centered: bool

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """Constants for the target's scale, and one call."""
        x, y = self.params, target.params
        with naming(builder.standing):
            made = norm(self.gain, self.offset, self.eps, math.prod(self.shape[-self.dims :]), x, y)
        constants = builder.weight("gain", made.weight), builder.weight("offset", made.bias)
        operator = planish.layer_norm.default if self.centered else planish.rms_norm.default
        bounds = (x.zero, made.eps, made.shift, y.zero, target.low, target.high, y.dtype)
        rows = _reshaped(builder, self.codes, self.shape)
        result = builder.call(operator, rows, *constants, self.dims, *bounds)
        return _reshaped(builder, result, tuple(self.codes.meta["val"].shape))


def row_norm(node: fx.Node, builder: Builder) -> Form | str:
    """layer_norm and rms_norm."""
    given = arguments(node)
    row = list(given["normalized_shape"])
    return _normed(node, builder, given, tuple(node.meta["val"].shape), row)


def group_norm(node: fx.Node, builder: Builder) -> Form | str:
    """Groups of channels with all their places; one gain and offset a channel."""
    given = arguments(node)
    groups = int(given["num_groups"])
    batch, channels, *extents = node.meta["val"].shape
    members = channels // groups
    return _normed(node, builder, given, (batch, groups, members, math.prod(extents)), [groups, members, 1])


def _normed(
    node: fx.Node, builder: Builder, given: dict[str, Any], shape: tuple[int, ...], affine: list[int]
) -> Form | str:
    if given["eps"] is None:
        return "its eps is no number"
    dims = 2 if is_call(node, aten.group_norm.default) else len(affine)
    constants = [given.get("weight"), given.get("bias")]
    values = [None if c is None else constant_of(builder, c, "gain or offset") for c in constants]
    gain, offset = (
        torch.full(affine, float(default), dtype=torch.float64) if value is None else value.to(torch.float64)
        for value, default in zip(values, (1, 0), strict=True)
    )
    codes, params = _codes(builder, given["input"], math.prod(shape[-dims:]))
    centered = not is_call(node, aten.rms_norm.default)
    return Normed(
        codes, params, gain.reshape(affine), offset.reshape(affine), float(given["eps"]), shape, dims, centered
    )


def _codes(builder: Builder, source: fx.Node, count: int) -> tuple[fx.Node, QuantParams]:
    """The planned codes; of 8 bits where rows are too long for more."""
    params = builder.params(source)
    if count * SPANS[params.dtype] < 2**31:
        return builder.codes(source), params
    return builder.bytes_of(source)


def _reshaped(builder: Builder, codes: fx.Node, shape: tuple[int, ...]) -> fx.Node:
    if tuple(codes.meta["val"].shape) == shape:
        return codes
    return builder.call(aten.reshape.default, codes, list(shape))
