"""Integer sums of products, exact: what stands before a requantization.

    convolution, linear, matmul, mul, sum:   int32 sums of (x - z) · w,  z the code that means 0

Padding adds nothing, as the zero point does. A sum that leaves 32 bits raises `AccumulatorOverflow`; a graph is made
only after a proof that none does (`ir.quantized.bounds`), so a kernel need not look. Shapes follow ATen's operators.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import AccumulatorOverflow, QuantizationError
from ..dyadic import INT32

aten = torch.ops.aten


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_zero: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """ATen's convolution of (x - x_zero), in any rank, transposed or grouped."""
    geometry = (stride, padding, dilation, transposed, output_padding, groups)
    return int32(aten.convolution.default(centered(x, x_zero), wide(weight), _optional(bias), *geometry))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, x_zero: int) -> Tensor:
    """(x - x_zero) @ weight.T + bias."""
    product = torch.matmul(centered(x, x_zero), wide(weight).T)
    return int32(product if bias is None else product + wide(bias))


def matmul(a: Tensor, b: Tensor, a_zero: int) -> Tensor:
    """(a - a_zero) @ b; b is symmetric, so that no sum over b's values has to be subtracted."""
    return int32(torch.matmul(centered(a, a_zero), wide(b)))


def mul(a: Tensor, b: Tensor, a_zero: int, b_zero: int) -> Tensor:
    """(a - a_zero) · (b - b_zero), broadcast."""
    return int32(centered(a, a_zero) * centered(b, b_zero))


def reduce_sum(x: Tensor, dim: Sequence[int], keepdim: bool, x_zero: int) -> Tensor:
    """The sum of (x - x_zero); a mean is this, requantized by a ratio that holds 1 / count."""
    return int32(centered(x, x_zero).sum(list(dim), keepdim))


def centered(x: Tensor, zero: int) -> Tensor:
    """x - zero in int64. Only 8 and 16 bits may have a zero point: what is wider would leave 32 bits."""
    if zero and x.dtype.itemsize > 2:
        raise QuantizationError(f"A value of {x.dtype} has the zero point {zero}.", "Accumulators are symmetric: 0.")
    return wide(x) - zero


def wide(x: Tensor) -> Tensor:
    """An integer tensor in int64."""
    if x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
        raise QuantizationError(f"An integer operator got {x.dtype}.", "Quantize the value first.")
    return x.to(torch.int64)


def fits(low: int, high: int, dtype: torch.dtype) -> None:
    """Refuse bounds that the result's dtype cannot hold."""
    limits = torch.iinfo(dtype)
    if not limits.min <= low <= high <= limits.max:
        raise QuantizationError(
            f"Results are clamped to {low}..{high}, which {dtype} cannot hold.",
            f"Choose bounds within {limits.min}..{limits.max}.",
        )


def int32(total: Tensor) -> Tensor:
    """A sum in int32, or the error that says how far off it is."""
    if total.numel():
        least, most = (int(bound) for bound in total.aminmax())
        if least < INT32[0] or most > INT32[1]:
            raise AccumulatorOverflow(
                f"A sum of products reaches {max(most, -least)}, which does not fit 32 bits.",
                "Split the sum, use fewer bits, or keep the layer in float.",
            )
    return total.to(torch.int32)


def _optional(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else wide(bias)
