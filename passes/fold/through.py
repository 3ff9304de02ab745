"""What an affine passes on its way forward: moves of elements, averages, and ramps where its scale is positive.

op(map(x)) == moved(op(x))      moved = STEPS[op](node of op, map), None where there is no such map
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from .affine import Affine, affine, value
from .positive import MAXIMA, RAMPS, through_positive
from .views import average, through_reshape

aten = torch.ops.aten


def _permute(node: fx.Node, map_: Affine) -> Affine:
    dims: Any = node.args[1]
    return map_ if map_.axis is None else map_.on_axis(dims.index(map_.axis))


def _reshape(node: fx.Node, map_: Affine) -> Affine | None:
    source: Any = node.args[0]
    return through_reshape(map_, value(source).shape, value(node).shape)


def _expand(node: fx.Node, map_: Affine) -> Affine:
    source: Any = node.args[0]
    return map_ if map_.axis is None else map_.on_axis(map_.axis + value(node).dim() - value(source).dim())


def _slice(node: fx.Node, map_: Affine) -> Affine:
    if map_.axis != node.args[1]:
        return map_
    picked: Any = slice(*node.args[2:5])
    return affine(map_.axis, map_.scale[picked], map_.shift[picked], map_.dtype)


def _mean(node: fx.Node, map_: Affine) -> Affine | None:
    source: Any = node.args[0]
    dims: Any = node.args[1]
    keep: Any = node.args[2]
    rank = value(source).dim()
    gone = {d % rank for d in dims} if dims else set(range(rank))
    if map_.axis is None:
        return map_
    if map_.axis in gone:
        return None
    return map_ if keep else map_.on_axis(map_.axis - sum(d < map_.axis for d in gone))


def _adaptive_average(node: fx.Node, map_: Affine) -> Affine | None:
    source: Any = node.args[0]
    spatial = len(node.args[1])  # type: ignore[arg-type]
    return map_ if map_.axis is None or map_.axis < value(source).dim() - spatial else None


STEPS: dict[Any, Callable[[fx.Node, Affine], Affine | None]] = {
    aten.permute.default: _permute,
    aten.reshape.default: _reshape,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.mean.dim: _mean,
    aten.avg_pool1d.default: average,
    aten.avg_pool2d.default: average,
    aten.avg_pool3d.default: average,
    aten.adaptive_avg_pool1d.default: _adaptive_average,
    aten.adaptive_avg_pool2d.default: _adaptive_average,
    **dict.fromkeys((*RAMPS, *MAXIMA), through_positive),
}
