"""What a kernel may know of the shifts of a requantization: kernels do not see constants, and equal ones are shared.

    placeholder.meta["shifts"] == (least, most)        =>  least <= every shift that it stands for <= most
    placeholder.meta["small"]                          =>  every multiplier of a sum that it stands for has 26 bits

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


def is_small(multipliers: torch.Tensor) -> bool:
    """Whether all multipliers have 26 bits."""
    return not bool((multipliers.abs() >= _SMALL).any())


def shift_range(shifts: torch.Tensor) -> tuple[int, int]:
    """The first of RANGES that holds all shifts, else their own bounds."""
    if not shifts.numel():
        return RANGES[0]
    least, most = (int(bound) for bound in shifts.aminmax())
    return next(((low, high) for low, high in RANGES if low <= least and most <= high), (least, most))
