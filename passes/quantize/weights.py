"""Weights and biases in integers: one symmetric scale an output channel, the bias at the accumulator's scale.

    s_w[o] = max(max_k |w[o, k]| / 127, |b[o]| / (s_x · 2^29)),   w_q = ⌊w / s_w + ½⌋,   b_q = ⌊b / (s_x s_w) + ½⌋

The second bound is for channels whose weights are nearly nothing beside their bias (a batch norm with a gain of 0 makes
them): their weights lose bits so that |b_q| <= 2^29, and the accumulator keeps room for the products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import QuantizationError

MOST = 127
"""Codes of weights are -127..127: as far down as up."""
BIAS_BITS = 29
"""A bias takes at most a quarter of an int32 accumulator."""
WHOLE = 2.0**-14
"""A product of a code below 256 and a scale, rounded to float32 a few times, is off by less than this many steps."""
GLANCE = 16
"""Numbers of a row that are looked at first."""


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


def grid_weight(weight: Tensor, bias: Tensor | None, x_scale: float, layer: str) -> QuantizedWeight:
    """Codes of a weight whose channels are multiples of a step already, in 8 bits: its own, times a whole number.

    The step of a channel is what its largest weight is by the largest number of steps up to 128 that makes all of them
    whole: more and finer steps mean the same, and leave a finer bias.
    """
    wide = weight.detach().to(torch.float64)
    rows = wide.flatten(1)
    steps = _steps(rows)
    if bool((steps == 0).any()):
        channel = int((steps == 0).to(torch.uint8).argmax())
        raise QuantizationError(
            f"{layer}: the graph gives no codes of 8 bits to its weights (channel {channel})",
            "Quantize the weights in the graph, symmetrically, or keep the layer in float.",
        )
    most = rows.abs().amax(1)
    codes = (rows * (steps / most.where(most > 0, 1.0))[:, None]).round()
    scales = torch.where(most > 0, most / steps, 1.0)
    offset = None if bias is None else bias.detach().to(torch.float64)
    if offset is not None:
        heavy = offset.abs() / (x_scale * scales) > 2.0**BIAS_BITS  # channels whose weights are nearly nothing
        coarse = quantize_weight(rows, bias, x_scale, layer)
        scales = torch.where(heavy, coarse.scales, scales)
        codes = torch.where(heavy[:, None], coarse.weight.to(torch.float64), codes)
    biases = None if offset is None else (offset / (x_scale * scales) + 0.5).floor().to(torch.int32)
    return QuantizedWeight(codes.to(torch.int8).reshape(weight.shape), biases, scales)


Quantizer = Callable[[Tensor, Tensor | None, float, str], QuantizedWeight]
"""Codes of a weight (outputs first) and a bias, by the input's scale; the last says whose."""


def _steps(rows: Tensor) -> Tensor:
    """How many steps each row's largest number is at most; 0 where none up to 128 makes all of them codes of int8."""
    found = torch.zeros(len(rows), dtype=torch.float64)
    most = rows.abs().amax(1)
    unit = rows / most.where(most > 0, 1.0)[:, None]
    for count in range(MOST + 1, 0, -1):
        open_rows = (found == 0).nonzero().flatten()
        if not len(open_rows):
            break
        near = open_rows[_whole(unit[open_rows, :GLANCE] * count)]  # a few numbers bar most counts
        own = unit[near] * count
        found[near[_whole(own) & (own.amax(1) < MOST + 0.5)]] = count
    return found


def _whole(values: Tensor) -> Tensor:
    """Rows of whole numbers, but for what float32 rounded."""
    return ((values - values.round()).abs() <= WHOLE).all(1)


def _along(values: Tensor, weight: Tensor, channel_dim: int) -> Tensor:
    """One value a channel, shaped to broadcast to the weight."""
    return values.reshape([-1 if dim == channel_dim else 1 for dim in range(weight.dim())])
