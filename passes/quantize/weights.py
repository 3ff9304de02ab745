"""Weights and biases in integers: one symmetric scale an output channel, the bias at the accumulator's scale.

    s_w[o] = max(max_k |w[o, k]| / 127, |b[o]| / (s_x · 2^29)),   w_q = ⌊w / s_w + ½⌋,   b_q = ⌊b / (s_x s_w) + ½⌋

The second bound is for channels whose weights are nearly nothing beside their bias (a batch norm with a gain of 0 makes
them): their weights lose bits so that |b_q| <= 2^29, and the accumulator keeps room for the products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import QuantizationError

MOST = 127
"""Codes of weights are -127..127: as far down as up."""
BIAS_BITS = 29
"""A bias takes at most a quarter of an int32 accumulator."""


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes (int8, the weight's shape), codes of the bias (int32) and the scales of accumulators, one a channel."""

    weight: Tensor
    bias: Tensor | None
    scales: Tensor
    """s_w, float64; accumulators have s_x · s_w."""

    def values(self, channel_dim: int = 0) -> Tensor:
        """What the codes stand for, in float64."""
        return self.weight.to(torch.float64) * _along(self.scales, self.weight, channel_dim)


def quantize_weight(
    weight: Tensor, bias: Tensor | None, x_scale: float, layer: str, channel_dim: int = 0
) -> QuantizedWeight:
    """Codes of a layer's weight and bias for an input of scale `x_scale`; channels lie along `channel_dim`.

    A transposed grouped convolution has its output channels in two dimensions: reshape it before.
    """
    wide = weight.detach().to(torch.float64)
    offset = None if bias is None else bias.detach().to(torch.float64)
    for what, values in (("weight", wide), ("bias", offset)):
        if values is not None and not bool(values.isfinite().all()):
            raise QuantizationError(f"{layer}: its {what} holds NaN or infinities.", "Look at the trained weights.")
    rest = [dim for dim in range(wide.dim()) if dim != channel_dim]
    scales = wide.abs().amax(rest) / MOST
    if offset is not None:
        scales = torch.maximum(scales, offset.abs() / x_scale * 2.0**-BIAS_BITS)
    scales = torch.where(scales > 0, scales, 1.0)  # a channel of zeros: any scale gives zeros
    codes = (wide / _along(scales, wide, channel_dim) + 0.5).floor().clamp(-MOST, MOST).to(torch.int8)
    biases = None if offset is None else (offset / (x_scale * scales) + 0.5).floor().to(torch.int32)
    return QuantizedWeight(codes, biases, scales)


def _along(values: Tensor, weight: Tensor, channel_dim: int) -> Tensor:
    """One value a channel, shaped to broadcast to the weight."""
    return values.reshape([-1 if dim == channel_dim else 1 for dim in range(weight.dim())])
