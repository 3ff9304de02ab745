"""Operators that move elements: the same call on codes, whatever codes the reader wants.

move(codes(x)) = codes(move(x))        pads: with the code of their value        max pool: of codes
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ....ir.ops import arguments, is_call
from ..builder import Builder, is_floating
from ..forms import Form, Moved, Target

aten = torch.ops.aten
planish = torch.ops.planish
POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
SUMS = (aten.col2im.default,)
"""In families that move, but not where places overlap."""


def move(node: fx.Node, builder: Builder) -> Form | str:
    """Views, concatenations, gathers, maxima: the operator itself, on codes."""
    if is_call(node, *SUMS):
        return "it adds up values that overlap"

    def emit(target: Target) -> fx.Node:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: _operand(builder, source, target))
        return builder.call(node.target, *_zeros(node, args, target), **kwargs)

    return Moved(emit)


def max_pool(node: fx.Node, builder: Builder) -> Form | str:
    """The largest code of each window."""
    given = arguments(node)
    kernel = list(given["kernel_size"])
    windows = [kernel, list(given["stride"]) or kernel, list(given["padding"]), list(given["dilation"])]
    ceil = bool(given["ceil_mode"])

    def emit(target: Target) -> fx.Node:
        return builder.call(planish.max_pool.default, builder.read(given["self"], target), *windows, ceil)

    return Moved(emit)


def order(node: fx.Node, builder: Builder) -> fx.Node:
    """argmax, argmin: codes are in the order of values."""
    source = node.all_input_nodes[0]
    codes = builder.codes(source)
    args, kwargs = fx.map_arg((node.args, node.kwargs), {source: codes}.__getitem__)
    with builder.stand_for(node):
        return builder.call(node.target, *args, **kwargs)


def _operand(builder: Builder, source: fx.Node, target: Target) -> fx.Node:
    return builder.read(source, target) if is_floating(source) else builder.other(source)


def _zeros(node: fx.Node, args: tuple[Any, ...], target: Target) -> tuple[Any, ...]:
    """The arguments with the code of what is filled in instead of the value."""
    if not is_call(node, aten.constant_pad_nd.default, aten.masked_fill.Scalar):
        return args
    value = float(args[2])
    return (*args[:2], target.clamped(value, value).low, *args[3:])
