"""canonicalize_convolutions: one op for all convolutions.

    conv{1,2,3}d(x, w, b, ...) == conv_transpose{1,2,3}d(...) == convolution(x, w, b, stride, padding, dilation,
                                                                      transposed, output_padding, groups)

Conditions:
- lists get one entry for each spatial dimension, an input without batch dimension gets one;
- `padding="same"` becomes numbers where it is symmetric, and a zero pad before the convolution where it is not.

Before:
    program(%x: f32[1, 2, 7, 7]) {
      @w: f32[4, 2, 2, 3]
      %y: f32[1, 4, 7, 7] = conv2d.padding(%x, @w, none, [1, 1], "same", [1, 1], 1)
      return %y
    }

After:
    program(%x: f32[1, 2, 7, 7]) {
      @w: f32[4, 2, 2, 3]
      %constant_pad_nd: f32[1, 2, 8, 7] = constant_pad_nd(%x, [0, 0, 0, 1], 0.0)
      %convolution: f32[1, 4, 7, 7] = convolution(%constant_pad_nd, @w, none, [1, 1], [0, 1], [1, 1], false, [0, 0], 1)
      return %convolution
    }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Expr
from .spelling import OpPass, Respell, Verdict, aten, call, full_length, replace_by, shape_of


def respell(node: fx.Node, program: Program) -> Verdict:
    """Any convolution as `convolution`."""
    given = arguments(node)
    x: fx.Node = given["input"]
    weight: fx.Node = given["weight"]
    kernel = shape_of(weight)[2:]
    rank = len(kernel)
    transposed = given.get("transposed", "transpose" in str(node.target))
    stride, dilation = (full_length(given[key], rank) for key in ("stride", "dilation"))
    output_padding = full_length(given.get("output_padding", 0), rank)
    source: Expr = x
    shape = shape_of(x)
    unbatched = len(shape) == rank + 1
    if unbatched:
        source = call(aten.reshape.default, x, [1, *shape])
    padding = given["padding"]
    if isinstance(padding, str):
        source, padding = _pad(source, padding, kernel, dilation)
    padding = full_length(padding, rank)
    lists = (stride, padding, dilation, transposed, output_padding)
    result = call(aten.convolution.default, source, weight, given["bias"], *lists, given["groups"])
    return replace_by(node, call(aten.reshape.default, result, shape_of(node)) if unbatched else result)


def _pad(x: Expr, mode: str, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[Expr, list[int]]:
    """`padding="same"` pads d (k - 1) in all, the odd one at the end."""
    totals = [d * (k - 1) if mode == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    low = [total // 2 for total in totals]
    extra = [total - 2 * half for total, half in zip(totals, low, strict=True)]
    if any(extra):
        pads = [pad for rest in reversed(extra) for pad in (0, rest)]
        x = call(aten.constant_pad_nd.default, x, pads, 0.0)
    return x, low


TABLE: Mapping[Any, Respell] = dict.fromkeys(
    (
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv3d.default,
        aten.conv3d.padding,
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
        aten.conv_transpose3d.input,
        aten.convolution.default,
        aten._convolution.default,
    ),
    respell,
)


@dataclass(frozen=True)
class CanonicalizeConvolutions(OpPass):
    """Spell every convolution as `convolution`."""

    name: ClassVar[str] = "canonicalize_convolutions"
    table: ClassVar[Mapping[Any, Respell]] = TABLE
