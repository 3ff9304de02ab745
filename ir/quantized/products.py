"""The sums of products of `accumulate.py` computed in floating point, where that gives the very same integers, faster.

    Σ (x - z) w in float  ==  Σ (x - z) w in int64        if Σ |x - z| |w| < 2^24 (float32) or 2^53 (float64)

Then every partial sum is an integer that the format holds, in whatever order it adds. int32 sums always fit float64.
PyTorch multiplies integers one by one; floats, 20 to 50 times as fast. For training, which runs the reference in each
step. A caller has proven that sums fit 32 bits, as whoever makes a graph has to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

planish = torch.ops.planish
aten = torch.ops.aten
SINGLE = 2**24


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, x_zero: int, *geometry: Any) -> Tensor:
    """`accumulate.convolution`."""
    rows = weight.transpose(0, 1) if geometry[3] else weight  # of a transposed one, inputs of all groups: a bound
    x, weight = _floats(x, x_zero, weight, rows.flatten(1))
    total: Tensor = aten.convolution.default(x, weight, None, *geometry).to(torch.int32)
    return total if bias is None else total + bias.reshape(-1, *[1] * (weight.dim() - 2))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, x_zero: int) -> Tensor:
    """`accumulate.linear`."""
    x, weight = _floats(x, x_zero, weight, weight)
    total = torch.matmul(x, weight.T).to(torch.int32)
    return total if bias is None else total + bias


def matmul(a: Tensor, b: Tensor, a_zero: int) -> Tensor:
    """`accumulate.matmul`."""
    a, b = _floats(a, a_zero, b, b.transpose(-1, -2))
    return torch.matmul(a, b).to(torch.int32)


PRODUCTS: Mapping[Any, Callable[..., Tensor]] = {"convolution": convolution, "linear": linear, "matmul": matmul}
"""By the name of the operator."""


def _floats(x: Tensor, zero: int, weight: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors in the narrowest format that is exact; `rows` has what a sum takes in its last dimension."""
    limits = torch.iinfo(x.dtype)
    largest = max(limits.max - zero, zero - limits.min)
    most = int(rows.to(torch.int64).abs().sum(-1).max()) if rows.numel() else 0
    dtype = torch.float32 if largest * most < SINGLE and _whole() else torch.float64
    return x.to(dtype) - zero, weight.to(dtype)


def _whole() -> bool:
    """Whether float32 products are computed as such: a user may have allowed fewer bits."""
    mkldnn: Any = torch.backends.mkldnn
    settings: tuple[Any, ...] = (torch.backends, mkldnn, mkldnn.conv, mkldnn.matmul)
    return all(one.fp32_precision in ("none", "ieee") for one in settings)
