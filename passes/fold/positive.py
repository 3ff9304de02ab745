"""How a per-channel map with positive scales passes through what only keeps order.

relu(s x) == s relu(x),    max_pool(s x + t) == s max_pool(x) + t        s > 0
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .affine import Affine, value

aten = torch.ops.aten

RAMPS = (aten.relu.default, aten.leaky_relu.default)
MAXIMA = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)


def through_positive(node: fx.Node, map_: Affine) -> Affine | None:
    """Pass a ramp or a maximum over positions, either way; None where the map changes what it decides."""
    if not bool((map_.scale > 0).all()):
        return None
    if node.target in RAMPS:
        return None if bool(map_.shift.any()) else map_
    source: Any = node.args[0]
    spatial = len(node.args[1])  # type: ignore[arg-type]
    return map_ if map_.axis is None or map_.axis < value(source).dim() - spatial else None
