"""The geometry of a region's convolution, shared by the templates that take one.

y[n, o, z] = b[o] + sum over c, taps k of z:  x[n, c, z*stride - pad + k*dilation] * w[o, c, k]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np
import torch

from ....ir.ops import integer_name
from ..plan import computed_dtype
from ..template import Packed, Refused, Task
from .bfloat16 import DOT_LANES, has_dot
from .emit import PackedArg
from .window import Axes, Axis, three_axes


@dataclass(frozen=True)
class Conv:
    """A convolution's geometry. `axes` has three entries; missing ones are (1 pixel, 1 tap)."""

    batch: int
    channels: int
    out_channels: int
    groups: int
    axes: Axes
    x: int
    w: int
    bias: int | None
    x_zero: int = 0
    """The code of x that means 0, where x holds codes."""

    @property
    def pointwise(self) -> bool:
        """Whether each output pixel reads just the input pixel at its own place."""
        return all(a.kernel == 1 and a.stride == 1 and a.pad == 0 for a in self.axes)


def read_conv(task: Task, transposed: bool = False, source: int | None = None) -> Conv | Refused:
    """Geometry of the region's convolution, or why no convolution template can take it.

    With `transposed` only transposed ones are read; the axes then say `z*stride - pad + k*dilation` of the output.
    `source` is the input that x is computed from element by element, if it is not one itself.
    """
    anchor = task.region.anchor_node
    if anchor is None or anchor.target is not torch.ops.aten.convolution.default:
        return Refused("not a convolution")
    args: tuple[Any, ...] = anchor.args
    conv = _read(task, args if source is None else (task.region.placeholders[source], *args[1:]), transposed)
    if isinstance(conv, Refused):
        return conv
    if any(computed_dtype(task.inputs[p].dtype) != "float32" for p in (conv.x, conv.w, conv.bias) if p is not None):
        return Refused("not float32 or bfloat16")
    return conv


def read_integer_conv(task: Task) -> Conv | Refused:
    """Geometry of the region's convolution of uint8 codes, or why no integer template can take it."""
    anchor = task.region.anchor_node
    if anchor is None or integer_name(anchor) != "convolution":
        return Refused("not a convolution of codes")
    args: tuple[Any, ...] = anchor.args
    conv = _read(task, (*args[:3], *args[4:]), False)
    if isinstance(conv, Refused):
        return conv
    dtypes = [task.inputs[p].dtype for p in (conv.x, conv.w, conv.bias) if p is not None]
    if dtypes[:2] != ["uint8", "int8"] or dtypes[2:] not in ([], ["int32"]):
        return Refused(f"codes of {', '.join(dtypes)}")
    return replace(conv, x_zero=args[3])


def _read(task: Task, args: tuple[Any, ...], transposed: bool) -> Conv | Refused:
    """What ATen's arguments say."""
    stride, padding, dilation, groups = *args[3:6], args[8]
    if bool(args[6]) != transposed:
        return Refused("not transposed" if transposed else "transposed")
    places = [_placeholder(task, a) for a in args[:3]]
    if places[0] is None or places[1] is None:
        return Refused("its input or weight is computed inside the region")
    if any(p is not None and p not in task.constants for p in places[1:]):
        return Refused("its weight or bias is not a constant")
    anchor: Any = task.region.anchor_node
    x, w = task.inputs[places[0]].shape, task.inputs[places[1]].shape
    out = tuple(int(d) for d in anchor.meta["val"].shape)
    if len(x) not in (3, 4, 5) or len(stride) != len(x) - 2:
        return Refused(f"rank {len(x)}")
    spatial = [Axis(*a) for a in zip(x[2:], out[2:], w[2:], stride, padding, dilation, strict=True)]
    return Conv(x[0], x[1], out[1], groups, three_axes(spatial), places[0], places[1], places[2])


def lanes_of(conv: Conv, block: int) -> int:
    """Output channels in a vector: a block, or the largest part of one that no group's border cuts."""
    return block if conv.groups == 1 else gcd(block, conv.out_channels // conv.groups)


def inner_of(conv: Conv, block: int) -> int:
    """Input channels that are read in a row: a block, or the largest part of one within group and block."""
    return min(block, conv.channels) if conv.groups == 1 else gcd(block, conv.channels // conv.groups)


def has_pairs(conv: Conv, task: Task) -> bool:
    """Whether channels are multiplied two at a time, where two lie side by side."""
    narrow = task.inputs[conv.x].dtype == "bfloat16" and has_dot(task.target)
    return narrow and lanes_of(conv, task.target.block) in DOT_LANES and inner_of(conv, task.target.block) > 1


def has_tap_pairs(conv: Conv, task: Task) -> bool:
    """Whether taps can be multiplied two at a time: those of a row lie side by side in a PLAIN image."""
    anchor, width = task.region.anchor_node, conv.axes[2]
    assert anchor is not None
    row = conv.groups == 1 and width.kernel > 1 and width.dilation == 1 and not anchor.args[6]
    return row and task.inputs[conv.x].dtype == "bfloat16" and has_dot(task.target)


def _placeholder(task: Task, node: Any) -> int | None:
    return task.region.placeholders.index(node) if node in task.region.placeholders else None


def pack_bias(position: int, size: int, block: int) -> PackedArg:
    """A vector over the channels, zeros in the lanes past them."""
    return PackedArg(Packed(position, f"o{block}", lambda b: np.pad(b, (0, size - b.shape[0]))), (size,))
