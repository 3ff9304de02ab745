"""Softmax and norms of rows in integers: no division, no root, no exponential, only multiply, add and shift.

    softmax(x)_i = 2^-(t_max - t_i) / sum,  t = x · s · log2(e)         out scale 2^-bits, zero 0
    norm(x)_i    = (n (x_i - z) - m) / sqrt(n Σ (x - z)² - m² + n² eps / s²) · gamma + beta,   m = Σ (x - z) or 0

n times the mean is an integer and n² times the variance too, so a norm knows its row exactly until the root.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ...errors import QuantizationError
from ..dyadic import scaled, shifted
from .accumulate import centered, fits, wide
from .fixed import EXP2_FRACTION, bit_length, exp2_below, inverse_root, reciprocal

FARTHEST = 2**31 - 1
"""Codes this far below the row's largest are as far as any."""
SPANS = {torch.uint8: 255, torch.int8: 255, torch.int16: 65535}
"""How far a code can be from the zero point."""


def softmax(
    x: Tensor, mask: Tensor | None, multiplier: int, shift: int, dim: int, bits: int, dtype: torch.dtype
) -> Tensor:
    """Probabilities times 2^bits, clamped to 2^bits - 1 and to the dtype; multiplier · 2^-shift = s · log2(e) · 2^24.

    Where the mask is false the probability is 0; a row that is masked wholly is 0. More bits than the dtype has are
    for rows so long that no probability is near 1.
    """
    limit = min(2**bits - 1, torch.iinfo(dtype).max)
    codes = wide(x)
    seen = torch.ones_like(codes, dtype=torch.bool) if mask is None else mask.expand(codes.shape)
    if not codes.numel():
        return codes.to(dtype)
    most = torch.where(seen, codes, -(2**31)).amax(dim, keepdim=True)
    below = (most - codes).clamp(0, FARTHEST)
    octaves = scaled(below, multiplier, shift).clamp(0, 31 << EXP2_FRACTION)
    powers = torch.where(seen, exp2_below(octaves), 0)
    total = powers.sum(dim, keepdim=True).clamp(min=1)
    excess = bit_length(total) - 31
    mantissa = torch.where(excess >= 0, total >> excess.clamp(min=0), total << (-excess).clamp(min=0))
    result = shifted(powers * reciprocal(mantissa), 61 + excess - bits)
    return result.clamp(max=limit).to(dtype)


def masked_softmax(x: Tensor, seen: Tensor, dim: int) -> Tensor:
    """Softmax of floats over the places that are seen; 0 at the others, and in rows that see none."""
    places = seen.expand(x.shape)
    kept = torch.softmax(x.masked_fill(~places, -torch.inf), dim)
    return torch.where(places.any(dim, keepdim=True), kept, 0.0)


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dims: int,
    x_zero: int,
    eps: int,
    shift: int,
    zero: int,
    low: int,
    high: int,
    dtype: torch.dtype,
    center: bool = True,
) -> Tensor:
    """The norm above over the last `dims` dimensions; `constants.norm` makes weight, bias, eps and shift.

    Without `center` m is 0: nothing is subtracted.
    """
    fits(low, high, dtype)
    axes = list(range(x.dim() - dims, x.dim()))
    count = row_length(x, dims)
    values = centered(x, x_zero)
    total = values.sum(axes, keepdim=True) if center else torch.zeros((), dtype=torch.int64)
    spread = count * (values * values).sum(axes, keepdim=True) - total * total
    finer = spare(count, x.dtype)
    root, exponent = inverse_root((spread << finer) + eps)
    unit = shifted((count * values - total) * root, exponent - finer // 2 - fraction(count))
    result = shifted(unit * weight + bias, shift)
    return (result.clamp(low - zero, high - zero) + zero).to(dtype)


rms_norm = partial(layer_norm, center=False)
"""The norm of the root of the mean square."""


def row_length(x: Tensor, dims: int) -> int:
    """Elements of a row; refused where n times a value does not fit 31 bits."""
    count = x.shape[x.dim() - dims :].numel()
    if x.dtype not in SPANS or count * SPANS[x.dtype] >= 2**31:
        raise QuantizationError(
            f"A norm over {count} values of {x.dtype} leaves 62 bits.",
            "Norms take 8 bits over rows of less than 8,421,505 values, or 16 bits over less than 32,769.",
        )
    return count


def spare(count: int, dtype: torch.dtype) -> int:
    """Bits k, an even number, by which n² times a variance can be finer without reaching 2^61: eps is as fine."""
    return max(0, (61 - ((count * SPANS[dtype]) ** 2).bit_length()) // 2 * 2)


def fraction(count: int) -> int:
    """Bits after the point of a normalized value, which is at most sqrt(count): together 30."""
    return 30 - (count.bit_length() + 1) // 2
