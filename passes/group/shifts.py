"""What a kernel may know of constants of integers: kernels do not see them, and equal kernels are shared.

    placeholder.meta["shifts"] == (least, most)        =>  least <= every shift that it stands for <= most
    placeholder.meta["small"]                          =>  every multiplier of a sum that it stands for has 26 bits
    placeholder.meta["sum_bits"] == bits               =>  |sum of any channel of this convolution's weight, without its
                                                           bias| < 2^bits, whatever the codes of its input are

The range is one of RANGES, the first that holds them all, so that kernels differ for a reason only. From 33 on the
upper half of the product alone decides (`ir/dyadic.py`), and from 28 on that of a sum whose small multiplier has room
for 5 bits more; up to 48 there is room to add a zero point before the shift; from 1 to 62 nothing saturates and nothing
vanishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ...ir import ops
from ...ir.dyadic import SHIFTS

RANGES = ((33, 48), (28, 48), (33, 62), (28, 57), (1, 62), (SHIFTS[0], SHIFTS[-1] + 1))
"""Narrow to wide; the last holds every shift that a graph may have."""

_PLACES = {"requantize": (2,), "add": (4,)}
"""Which arguments of an operator are tensors of shifts."""
_FACTORS = {"add": (2, 3)}
"""Which are multipliers that may be small."""
_SMALL = 2**26

SUM_BITS = (25, 28, 29)
"""What is left of 32 bits where sums are multiples of 64, 8 or 4 (kernels of Winograd's in whole numbers)."""


def note_shifts(body: fx.Graph, sources: Mapping[fx.Node, fx.Node], weights: Mapping[str, torch.Tensor]) -> None:
    """Note it on the placeholders of a region; `sources` are the nodes that they stand for."""

    def held(node: fx.Node, place: int) -> tuple[Any, torch.Tensor | None]:
        holder: Any = node.args[place]
        source = sources.get(holder)
        return holder, weights[str(source.target)] if source is not None and source.op == "get_attr" else None

    for node in body.nodes:
        name = ops.integer_name(node) or ""
        for place in _PLACES.get(name, ()):
            holder, constant = held(node, place)
            if constant is not None:
                holder.meta["shifts"] = shift_range(constant)
        for place in _FACTORS.get(name, ()):
            holder, constant = held(node, place)
            if constant is not None:
                holder.meta["small"] = is_small(constant)
        if name == "convolution":
            holder, constant = held(node, 1)
            bits = None if constant is None or node.args[7] else sum_bits(constant, node.args[3])
            if bits is not None:
                holder.meta["sum_bits"] = bits


def sum_bits(weight: torch.Tensor, x_zero: int) -> int | None:
    """The first of SUM_BITS that holds Σ w·(x - x_zero) of every output channel, x in 0..255; None if none does.

    The sum lies between -(x_zero Σw⁺ + (255 - x_zero) Σw⁻) and (255 - x_zero) Σw⁺ + x_zero Σw⁻, padding included.
    """
    rows = weight.to(torch.int64).flatten(1)
    up, down = rows.clamp(min=0).sum(1), -rows.clamp(max=0).sum(1)
    low, high = x_zero, 255 - x_zero
    most = int(torch.maximum(low * up + high * down, high * up + low * down).amax()) if rows.numel() else 0
    return next((bits for bits in SUM_BITS if most < 2**bits), None)


def is_small(multipliers: torch.Tensor) -> bool:
    """Whether all multipliers have 26 bits."""
    return not bool((multipliers.abs() >= _SMALL).any())


def shift_range(shifts: torch.Tensor) -> tuple[int, int]:
    """The first of RANGES that holds all shifts, else their own bounds."""
    if not shifts.numel():
        return RANGES[0]
    least, most = (int(bound) for bound in shifts.aminmax())
    return next(((low, high) for low, high in RANGES if low <= least and most <= high), (least, most))
