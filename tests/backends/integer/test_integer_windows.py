"""Pools and resizes of codes: the bits of the reference, also where windows hang over the image or miss it."""

from __future__ import annotations

import pytest
import torch
from integer_case import LAYOUTS, S8, S16, S32, U8, codes, exact, hostile, planish

from planish.ir.quantized.constants import interpolation

WINDOWS = {
    "overlapping": ((2, 19, 9, 8), [3, 3], [2, 2], [1, 1], [1, 1], True),
    "dilated": ((1, 3, 9, 9), [2, 3], [1, 2], [1, 1], [2, 1], False),
    "1d": ((2, 3, 11), [3], [2], [1], [1], False),
    "1d without batch": ((3, 11), [3], [2], [1], [1], True),
    "3d": ((1, 2, 5, 4, 6), [2, 2, 2], [2, 1, 2], [1, 0, 1], [1, 1, 1], False),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("dtype", [S8, S16])
def test_max_pool(name: str, dtype: torch.dtype) -> None:
    shape, *window = WINDOWS[name]
    blocked = LAYOUTS if len(shape) == 4 else LAYOUTS[:1]
    exact(lambda x: planish.max_pool.default(x, *window), *((x,) for x in hostile(shape, dtype)), layouts=blocked)


@pytest.mark.parametrize("dtype", [U8, S8, S32])
def test_windows_that_meet_nothing(dtype: torch.dtype) -> None:
    """Taps at -1 and 2 of an image of 2: the reference says 0, the low bits of the least int64."""
    x = torch.full((1, 1, 2), -5 if dtype != U8 else 5, dtype=dtype)
    window = ([2], [1], [1], [3], False)
    assert planish.max_pool.default(x, *window).tolist() == [[[0]]]
    exact(lambda v: planish.max_pool.default(v, *window), (x,))


@pytest.mark.parametrize("name", [n for n, w in WINDOWS.items() if w[4] == [1] * len(w[1])])
def test_sum_pool(name: str) -> None:
    shape, kernel, stride, pad, _, ceil_mode = WINDOWS[name]
    blocked = LAYOUTS if len(shape) == 4 else LAYOUTS[:1]
    for dtype, zero in ((U8, 99), (S16, -7)):
        sets = [(x,) for x in hostile(shape, dtype)]
        exact(
            lambda x, zero=zero: planish.sum_pool.default(x, zero, kernel, stride, pad, ceil_mode),  # type: ignore[misc]
            *sets,
            layouts=blocked,
        )


def test_resize() -> None:
    """Twice as high by halves and quarters, then any places along the channels."""
    matrix = torch.zeros(14, 7, dtype=torch.float64)
    for row in range(14):
        at = min(max((row + 0.5) / 2 - 0.5, 0.0), 6.0)
        matrix[row, int(at)] += 1 - at % 1
        matrix[row, min(int(at) + 1, 6)] += at % 1
    places, weights = interpolation(matrix, 8)
    sets = [(x, places, weights) for x in hostile((2, 5, 7, 3))]
    exact(lambda *a: planish.resize.default(*a, 2, 128), *sets, layouts=LAYOUTS, constants=(1, 2))
    odd = torch.tensor([[4, 0, 3]]), torch.tensor([[-3, 1, 2**20]], dtype=S32)
    exact(lambda *a: planish.resize.default(*a, 1, 0), (codes(2, 5, 7, 3), *odd), constants=(1, 2))
