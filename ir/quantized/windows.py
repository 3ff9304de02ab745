"""Integer pools and resizes: exact sums and maxima over windows and neighbours.

    sum_pool: Σ (x - z) over the window       max_pool: the largest code       resize: Σ w_k (x[place_k] - z)

Zero padding adds nothing to a sum, as the zero point does, and never wins a maximum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .accumulate import centered, int32, wide

aten = torch.ops.aten
AVERAGE = {1: aten.avg_pool1d.default, 2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}
MAXIMUM = {1: aten.max_pool1d.default, 2: aten.max_pool2d.default, 3: aten.max_pool3d.default}


def sum_pool(
    x: Tensor, x_zero: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil_mode: bool
) -> Tensor:
    """Sums of (x - x_zero) over windows; an average pool is this, requantized (by place, where windows are cut)."""
    flat = centered(x, x_zero).to(torch.float64)  # exact: sums are below 2^53
    if len(kernel) == 1:
        pooled = AVERAGE[2](flat.unsqueeze(-2), [1, *kernel], [1, *stride], [0, *padding], ceil_mode, True, 1)
        return int32(pooled.squeeze(-2).to(torch.int64))
    return int32(AVERAGE[len(kernel)](flat, kernel, stride, padding, ceil_mode, True, 1).to(torch.int64))


def max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """The largest code of each window: requantizing keeps order, so it may stand before or after."""
    values = wide(x)
    if len(kernel) == 1:  # PyTorch's one-dimensional pool knows floats only
        windows = ([1, *kernel], [1, *stride], [0, *padding], [1, *dilation])
        pooled: Tensor = MAXIMUM[2](values.unsqueeze(-2), *windows, ceil_mode).squeeze(-2)
    else:
        pooled = MAXIMUM[len(kernel)](values, kernel, stride, padding, dilation, ceil_mode)
    return pooled.to(x.dtype)


def resize(x: Tensor, places: Tensor, weights: Tensor, dim: int, x_zero: int) -> Tensor:
    """y[i] = sum over k of weights[k, i] · (x[places[k, i]] - x_zero) along one dimension.

    Interpolations are weighted sums of few neighbours, one dimension after the other; nothing is rounded between.
    """
    trailing = [1] * (x.dim() - 1 - dim)
    total = torch.zeros((), dtype=torch.int64)
    for where, weight in zip(places, weights, strict=True):
        total = total + centered(x, x_zero).index_select(dim, where) * wide(weight).reshape([-1, *trailing])
    return int32(total)
