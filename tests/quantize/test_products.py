"""Products of codes in floating point are the integers of the reference, also where float32 would not hold them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from planish.ir.quantized import accumulate, products

NUMBERS = torch.Generator().manual_seed(0)


def codes(dtype: torch.dtype, *shape: int) -> Tensor:
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, shape, generator=NUMBERS, dtype=torch.int64).to(dtype)


@pytest.fixture
def fewer_bits() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
@pytest.mark.parametrize("depth", [5, 3000])  # 3000 · 255 · 127 > 2^24
def test_linear_and_matmul(dtype: torch.dtype, depth: int) -> None:
    x, w, bias = codes(dtype, 3, depth), codes(torch.int8, 4, depth), codes(torch.int16, 4).to(torch.int32)
    if dtype is torch.int16:
        w = w // 64  # else sums leave 32 bits
    zero = 0 if dtype is torch.int16 else 7
    assert torch.equal(products.linear(x, w, bias, zero), accumulate.linear(x, w, bias, zero))
    assert torch.equal(products.linear(x, w, None, zero), accumulate.linear(x, w, None, zero))
    assert torch.equal(products.matmul(x, w.T, zero), accumulate.matmul(x, w.T, zero))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolution(groups: int, transposed: bool) -> None:
    x, w = codes(torch.uint8, 2, 8, 7, 6), codes(torch.int8, 8, 8 // groups, 3, 3)
    bias = codes(torch.int16, 8).to(torch.int32)
    geometry = ([2, 1], [1, 2], [1, 1], transposed, [0, 0], groups)
    made = products.convolution(x, w, bias, 128, *geometry)
    assert torch.equal(made, accumulate.convolution(x, w, bias, 128, *geometry))


def test_sums_just_above_float32() -> None:
    """2^24 + 1 is the first integer that float32 lacks."""
    x, w = torch.full((1, 66577), 252, dtype=torch.uint8), torch.ones(1, 66577, dtype=torch.int8)
    x[0, :2] = torch.tensor([253, 64], dtype=torch.uint8)
    assert int(products.linear(x, w, None, 0)) == 66575 * 252 + 253 + 64 == 2**24 + 1


@pytest.mark.usefixtures("fewer_bits")
def test_where_float32_products_have_fewer_bits() -> None:
    """bfloat16 has 8 bits: 255 · 127 + 1 needs 15."""
    x, w = torch.tensor([[255, 1] * 32], dtype=torch.uint8), torch.tensor([[127, 1] * 32] * 64, dtype=torch.int8)
    assert products._floats(x, 0, w, w)[0].dtype is torch.float64
    assert products.linear(x, w, None, 0).unique().tolist() == [32 * (255 * 127 + 1)]
