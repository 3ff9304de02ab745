"""Proof that no int32 accumulator overflows, by channel, from the weights themselves and the range of the input.

    most[o] = bias[o] + Σ_k max(0, w[o, k] (high - z), w[o, k] (low - z)),   least[o] with min

The 0 stands for padding. All sums are exact in int64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import AccumulatorOverflow, QuantizationError
from ..dyadic import INT32
from ..types import QuantParams


def accumulator_bounds(
    weight: Tensor, bias: Tensor | None, x: QuantParams, transposed: bool = False, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """(least, most) a channel, int64. Output channels are the first dimension, or the second where transposed."""
    if weight.dtype.is_floating_point:
        raise QuantizationError(f"Bounds of {weight.dtype} weights were asked for.", "Quantize them first.")
    w = _by_channel(weight.to(torch.int64), transposed, groups)
    above, below = w * (x.high - x.zero), w * (x.low - x.zero)
    least, most = torch.minimum(above, below).clamp(max=0), torch.maximum(above, below).clamp(min=0)
    offset = torch.zeros(len(w), dtype=torch.int64) if bias is None else bias.to(torch.int64)
    return offset + least.sum(1), offset + most.sum(1)


def prove_accumulators(least: Tensor, most: Tensor, layer: str) -> None:
    """Raise `AccumulatorOverflow` that names the worst channel, unless every one fits 32 bits."""
    worst = torch.maximum(most, -1 - least)
    if worst.numel() and int(worst.max()) > INT32[1]:
        channel = int(worst.argmax())
        reached = f"{int(least[channel])}..{int(most[channel])}"
        raise AccumulatorOverflow(
            f"{layer}: the sums of channel {channel} can reach {reached}, which does not fit 32 bits.",
            "Split the sum over its input channels, use fewer bits, or keep the layer in float.",
        )


def _by_channel(weight: Tensor, transposed: bool, groups: int) -> Tensor:
    """(output channels, everything that a channel sums over); a transposed one sums over a part of its taps."""
    if not transposed:
        return weight.reshape(len(weight), -1)
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    return weight.reshape(groups, inputs, outputs, -1).transpose(1, 2).reshape(groups * outputs, -1)
