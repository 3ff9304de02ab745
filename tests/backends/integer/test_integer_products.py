"""Sums of products in every form, at the ends of their ranges: the bits of the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from integer_case import LAYOUTS, S8, S16, S32, U8, codes, exact, hostile, planish

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]] = {
    "3x3": ((2, 5, 7, 9), (6, 5, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
    "stride and dilation": ((1, 4, 9, 8), (18, 4, 3, 2), ([2, 1], [2, 1], [1, 3], False, [0, 0], 1)),
    "grouped": ((1, 6, 5, 5), (4, 3, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 2)),
    "depthwise": ((1, 19, 6, 6), (19, 1, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 19)),
    "1x1": ((1, 33, 4, 4), (7, 33, 1, 1), ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
    "1d": ((2, 3, 11), (4, 3, 3), ([2], [1], [1], False, [0], 1)),
    "3d": ((1, 2, 4, 5, 4), (3, 2, 2, 3, 2), ([1, 1, 2], [1, 0, 1], [1, 1, 1], False, [0, 0, 0], 1)),
    "transposed": ((1, 4, 5, 4), (4, 3, 3, 3), ([2, 2], [1, 1], [1, 1], True, [1, 0], 1)),
    "transposed groups": ((1, 4, 5, 4), (4, 2, 3, 2), ([2, 1], [0, 1], [2, 1], True, [0, 0], 2)),
}


CASES = [*((name, U8, 131) for name in CONVOLUTIONS), ("3x3", S16, 0), ("transposed groups", S16, 0), ("1d", S8, -7)]


@pytest.mark.parametrize(("name", "dtype", "zero"), CASES, ids=str)
def test_convolution(name: str, dtype: torch.dtype, zero: int) -> None:
    x, weight, geometry = CONVOLUTIONS[name]
    transposed, groups = geometry[3], geometry[5]
    bias = codes(weight[1] * groups if transposed else weight[0], dtype=S16).to(S32)
    w = codes(*weight, dtype=S8)
    sets = [(v, k, bias) for v, k in zip(hostile(x, dtype), (w, w, w, *hostile(weight, S8)), strict=False)]

    def fn(v: torch.Tensor, k: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = planish.convolution.default(v, k, b, zero, *geometry)
        return result

    exact(fn, *sets, layouts=LAYOUTS, constants=(1, 2))


def test_a_convolution_with_its_epilogue() -> None:
    """Requantized, added to a residual, looked up: in one kernel, from blocked inputs of two batches."""
    weight, geometry = codes(19, 5, 3, 3, dtype=S8), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    m, c = torch.full((19, 1, 1), 1 << 29), torch.arange(33, 52).reshape(19, 1, 1)
    table = codes(256)

    def fn(x: torch.Tensor, r: torch.Tensor, *k: torch.Tensor) -> torch.Tensor:
        weight, ma, mb, c, table = k
        sums = planish.convolution.default(x, weight, None, 9, *geometry)
        result: torch.Tensor = planish.lookup.default(
            planish.add.default(sums, r, ma, mb, c, 0, 128, 3, 0, 255, U8), table
        )
        return result

    pairs = zip(hostile((2, 5, 6, 7)), hostile((2, 19, 6, 7)), strict=True)
    exact(fn, *((x, r, weight, m, m + 1, c, table) for x, r in pairs), layouts=LAYOUTS, constants=(2, 3, 4, 5, 6))


@pytest.mark.parametrize(("dtype", "shape"), [(U8, (3, 37)), (S8, (70,)), (S16, (2, 3, 64)), (U8, (2, 3, 64))], ids=str)
def test_linear(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    zero, w = 77, codes(21, shape[-1], dtype=S8)
    bias = codes(21, dtype=S16).to(S32)
    sets = [(x, w, bias) for x in hostile(shape, dtype)]
    exact(lambda x, w, b: planish.linear.default(x, w, b, zero), *sets, constants=(1, 2))
    exact(lambda x, w: planish.linear.default(x, w, None, 0), *((x, w) for x, w, _ in sets), constants=(1,))


def test_sums_may_leave_32_bits_on_the_way() -> None:
    """2^31 - 1 + 255 · 127 · 7 - 255 · 127 · 8, in an order in which the first half alone would overflow."""
    x = torch.full((1, 15), 255, dtype=U8)
    w = torch.tensor([[127] * 7 + [-127] * 8], dtype=S8)
    bias = torch.tensor([2**31 - 1], dtype=S32)
    assert planish.linear.default(x, w, bias, 0).tolist() == [[2**31 - 1 - 255 * 127]]
    exact(lambda x, w, b: planish.linear.default(x, w, b, 0), (x, w, bias), constants=(1, 2))


PRODUCTS = [((4, 9), (9, 5)), ((2, 3, 4, 40), (3, 40, 17)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 3)), ((3, 4), (4,))]


@pytest.mark.parametrize(("a", "b"), PRODUCTS)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    for dtype, zero in ((U8, 200), (S8, 0), (S16, 0)):
        pairs = list(zip(hostile(a, dtype), (codes(*b, dtype=S8), *hostile(b, S8)), strict=False))
        exact(lambda x, y, zero=zero: planish.matmul.default(x, y, zero), *pairs)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("dims", "keepdim"), [([2, 3], True), ([1], False), ([0, 1, 2, 3], False), ([3], True)], ids=str
)
def test_sum(dims: list[int], keepdim: bool) -> None:
    for dtype in (U8, S16):
        sets = [(x,) for x in hostile((2, 5, 9, 7), dtype)]
        exact(lambda x: planish.sum.default(x, dims, keepdim, 100), *sets)
    exact(lambda x: planish.sum.default(x, dims, keepdim, 0), (codes(2, 5, 9, 7, dtype=S16).to(S32),))


def test_a_long_sum_in_two_steps() -> None:
    exact(lambda x: planish.sum.default(x, [0, 1], False, 3), *((x,) for x in hostile((90, 70))))
