"""How far right arithmetic may be from the float64 reference: PyTorch's own rounding error calibrates it.

allowed = 4 max|eager32 - reference64| + 8 ulp(max|reference64|)
allowed = 2 max|eager16 - reference64| + 1 ulp(max|reference64|)      in bfloat16
"""

from __future__ import annotations

import math

import torch

_ALLOWED = {torch.float64: (4, 256), torch.bfloat16: (2, 1)}
"""(multiples of PyTorch's own error, units in the last place). A float64 model has no better reference than itself: its
own error reads as zero, so it gets more."""


def allowed(exact: torch.Tensor, own: torch.Tensor, rounds: torch.dtype | None = None) -> float:
    """The largest error that a result may have where `own` is finite.

    `exact` is the reference, `own` what PyTorch computes; `rounds` the dtype that values were rounded to on the way.
    """
    rounds, finite = rounds or own.dtype, own.isfinite()
    factor, ulps = _ALLOWED.get(rounds, (4, 8))
    return factor * worst(own[finite] - exact[finite]) + ulps * unit(worst(exact[finite]), rounds)


def unit(scale: float, dtype: torch.dtype) -> float:
    """Distance between neighbouring numbers of that magnitude."""
    info = torch.finfo(dtype)
    return max(info.eps * 2.0 ** (math.frexp(scale)[1] - 1), info.smallest_normal * info.eps)


def worst(values: torch.Tensor) -> float:
    """The largest magnitude, 0 of nothing."""
    return float(values.abs().max()) if values.numel() else 0.0
