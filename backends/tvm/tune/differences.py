"""Whether a candidate computes what the default does. Imports neither torch nor TVM.

difference(result, expected) == ""   exactly if integers are equal and floats as near as two right kernels are
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..plan import from_memory

BOUND = {"float64": 1e-11, "float32": 4e-5, "bfloat16": 2.0**-6}
"""How far two kernels for one task may be apart, in units of the output's scale: twice what each may be off."""


REFERENCE = "reference"
"""The key of a task's float64 result."""


def difference(result: np.ndarray, expected: np.ndarray, dtype: str, exact: bool = False) -> str:
    """Why `result` is not what the default computes, or nothing.

    Kernels may sum in another order, within a bound, unless they have to be `exact`.
    """
    if dtype not in BOUND:
        return _unequal(result == expected)
    got, want = (from_memory(array, dtype).astype(np.float64) for array in (result, expected))
    if exact:
        return _unequal((got == want) | (np.isnan(got) & np.isnan(want)))
    strange = ~np.isfinite(want)
    if not np.array_equal(got[strange], want[strange], equal_nan=True) or not np.isfinite(got[~strange]).all():
        return "NaN or inf are not where the default has them"
    scale = float(np.abs(want[~strange]).max(initial=0.0))
    error = float(np.abs(got[~strange] - want[~strange]).max(initial=0.0))
    if error <= BOUND[dtype] * scale:
        return ""
    return f"it is {error / scale if scale else math.inf:.2g} of the output's scale away from the default"


def beyond(result: np.ndarray, reference: np.ndarray, dtype: str, error: float) -> str:
    """Whether a result is further from the float64 reference than `error`, where both are finite."""
    got = from_memory(result, dtype).astype(np.float64)
    finite = np.isfinite(got) & np.isfinite(reference)
    worst = float(np.abs(got[finite] - reference[finite]).max(initial=0.0))
    return "" if worst <= error else f"it is {worst:.2g} away from float64, where rounding explains {error:.2g}"


def _unequal(same: np.ndarray) -> str:
    return "" if same.all() else f"{int((~same).sum())} of {same.size} elements differ from the default's"


def junk(physical: Sequence[int], memory: str) -> np.ndarray:
    """An output buffer in which an element that the kernel forgets is found: NaN, or large."""
    size = math.prod(physical) * np.dtype(memory).itemsize
    return np.full(size, 0xFF, np.uint8).view(memory).reshape(physical)
