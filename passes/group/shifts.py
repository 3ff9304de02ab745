"""What a kernel may know of the shifts of a requantization: kernels do not see constants, and equal ones are shared.

    placeholder.meta["shifts"] == (least, most)        =>  least <= every shift that it stands for <= most

The range is one of RANGES, the first that holds them all, so that kernels differ for a reason only. From 33 on the
upper half of the product alone decides (`ir/dyadic.py`); from 1 to 62 nothing saturates and nothing vanishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ...ir import ops
from ...ir.dyadic import SHIFTS

RANGES = ((33, 62), (1, 62), (SHIFTS[0], SHIFTS[-1] + 1))
"""Narrow to wide; the last holds every shift that a graph may have."""

_PLACES = {"requantize": 2, "add": 4}
"""Which argument of an operator is a tensor of shifts."""


def note_shifts(body: fx.Graph, sources: Mapping[fx.Node, fx.Node], weights: Mapping[str, torch.Tensor]) -> None:
    """Note it on the placeholders of a region; `sources` are the nodes that they stand for."""
    for node in body.nodes:
        place = _PLACES.get(ops.integer_name(node) or "")
        holder: Any = None if place is None else node.args[place]
        source = sources.get(holder)
        if source is not None and source.op == "get_attr":
            holder.meta["shifts"] = shift_range(weights[str(source.target)])


def shift_range(shifts: torch.Tensor) -> tuple[int, int]:
    """The first of RANGES that holds all shifts, else their own bounds."""
    if not shifts.numel():
        return RANGES[0]
    least, most = (int(bound) for bound in shifts.aminmax())
    return next(((low, high) for low, high in RANGES if low <= least and most <= high), (least, most))
