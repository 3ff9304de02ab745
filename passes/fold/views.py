"""How a per-channel map passes through an op that only moves elements.

    view(affine_in(x)) == affine_out(view(x))

`reshape` works on the smallest blocks of dimensions with equal extents on both sides: the map is spread over
the whole block and must come out as varying along one dimension of the other side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from .affine import Affine, affine, value


def through_reshape(map_: Affine, source: Sequence[int], target: Sequence[int]) -> Affine | None:
    """Take a map along an axis of shape `source` to the shape `target`; None if it is no longer per-channel."""
    if map_.axis is None:
        return map_
    block = _block(source, target, map_.axis)
    if block is None:
        return None
    (s0, s1), (t0, t1) = block
    spread = [_respread(v, source[s0:s1], map_.axis - s0, target[t0:t1]) for v in (map_.scale, map_.shift)]
    varying = {d for t in spread for d in range(t.dim()) if not _uniform(t, d)}
    if len(varying) > 1:
        return None
    if not varying:
        return affine(None, spread[0].reshape(-1)[:1], spread[1].reshape(-1)[:1], map_.dtype)
    axis = varying.pop()
    scale, shift = (t.movedim(axis, 0).reshape(t.shape[axis], -1)[:, 0] for t in spread)
    return Affine(t0 + axis, scale, shift, map_.dtype)


def average(node: fx.Node, map_: Affine) -> Affine | None:
    """Pass an average pooling: each output is a mean of inputs unless zeros of the padding are counted."""
    source: Any = node.args[0]
    padding: Any = node.args[3]
    include_pad, *divisor = node.args[5:]  # 1d has no divisor
    spatial = len(node.args[1])  # type: ignore[arg-type]
    whole = divisor in ([], [None]) and not (include_pad and any(padding))
    if not whole and bool(map_.shift.any()):
        return None
    return map_ if map_.axis is None or map_.axis < value(source).dim() - spatial else None


def _block(source: Sequence[int], target: Sequence[int], axis: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the dimension ranges of source and target that hold the same elements around source's `axis`."""
    if math.prod(source) == 0:
        return None
    s = t = 0
    while s < len(source):
        s0, t0, left, right = s, t, source[s], 1
        s += 1
        while left != right:
            if left < right:
                left *= source[s]
                s += 1
            else:
                right *= target[t]
                t += 1
        if s0 <= axis < s:
            return (s0, s), (t0, t)
    return None


def _respread(vector: Tensor, source: Sequence[int], axis: int, target: Sequence[int]) -> Tensor:
    shape = [1] * len(source)
    shape[axis] = -1
    return vector.reshape(shape).expand(source).reshape(tuple(target))


def _uniform(tensor: Tensor, dim: int) -> bool:
    return tensor.shape[dim] == 1 or bool(torch.equal(tensor, tensor.narrow(dim, 0, 1).expand_as(tensor)))
