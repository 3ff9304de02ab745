"""Sums of products against float64, which is exact here, and against plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from planish.errors import AccumulatorOverflow, QuantizationError
from planish.ir.quantized import accumulate, windows

aten = torch.ops.aten


def codes(shape: tuple[int, ...], low: int, high: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def u8(*shape: int, seed: int = 0) -> Tensor:
    return codes(shape, 0, 255, torch.uint8, seed)


def s8(*shape: int, seed: int = 1) -> Tensor:
    return codes(shape, -128, 127, torch.int8, seed)


def same(got: Tensor, exact: Tensor) -> bool:
    return got.dtype == torch.int32 and torch.equal(got.double(), exact)


CONVOLUTIONS: dict[str, tuple[Tensor, Tensor, tuple[Any, ...]]] = {
    # stride, padding, dilation, transposed, output padding, groups
    "1d": (u8(2, 3, 9), s8(4, 3, 3), ([2], [1], [1], False, [0], 1)),
    "2d dilated": (u8(1, 3, 9, 8), s8(4, 3, 3, 2), ([1, 2], [2, 1], [2, 1], False, [0, 0], 1)),
    "3d": (u8(1, 2, 4, 5, 6), s8(3, 2, 2, 2, 2), ([1, 1, 2], [0, 1, 0], [1, 1, 1], False, [0, 0, 0], 1)),
    "grouped": (u8(2, 6, 5, 5), s8(4, 3, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 2)),
    "depthwise": (u8(1, 6, 5, 5), s8(12, 1, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 6)),
    "transposed": (u8(1, 4, 5, 5), s8(4, 3, 3, 3), ([2, 2], [1, 1], [1, 1], True, [1, 0], 1)),
    "transposed grouped 1d": (u8(1, 4, 5), s8(4, 3, 2), ([2], [0], [1], True, [0], 2)),
    "transposed 3d": (u8(1, 2, 3, 3, 3), s8(2, 2, 2, 2, 2), ([2] * 3, [0] * 3, [1] * 3, True, [0] * 3, 1)),
    "int16": (
        codes((1, 3, 5, 5), -(2**15), 2**15 - 1, torch.int16),
        s8(2, 3, 3, 3),
        ([1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    ),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("zero", [0, 131])
def test_convolutions(case: str, zero: int) -> None:
    x, w, geometry = CONVOLUTIONS[case]
    zero = 0 if x.dtype == torch.int16 else zero
    bias = torch.arange(-(2**24), 2**24, 2**25 // (w.shape[1] * geometry[5] if geometry[3] else len(w)))
    bias = bias[: w.shape[1] * geometry[5] if geometry[3] else len(w)].to(torch.int32)
    exact = aten.convolution.default(x.double() - zero, w.double(), bias.double(), *geometry)
    assert same(accumulate.convolution(x, w, bias, zero, *geometry), exact)


def test_padding_is_the_zero_point() -> None:
    x, w = u8(1, 2, 4, 4), s8(3, 2, 3, 3)
    inside = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    padded = accumulate.convolution(x, w, None, 77, [1, 1], [1, 1], *inside[2:])
    assert torch.equal(padded, accumulate.convolution(aten.constant_pad_nd(x, [1, 1, 1, 1], 77), w, None, 77, *inside))
    flat = torch.full((1, 2, 4, 4), 77, dtype=torch.uint8)
    assert not accumulate.convolution(flat, w, None, 77, [1, 1], [1, 1], *inside[2:]).any()


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)])
def test_linear(shape: tuple[int, ...]) -> None:
    x, w, bias = u8(*shape), s8(5, 4), codes((5,), -(2**30), 2**30, torch.int32)
    assert same(accumulate.linear(x, w, bias, 7), (x.double() - 7) @ w.double().T + bias)
    assert same(accumulate.linear(x, w, None, 7), (x.double() - 7) @ w.double().T)


@pytest.mark.parametrize(("a", "b"), [((3, 4), (4, 2)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 2)), ((2, 3, 4), (4,))])
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = u8(*a), s8(*b)
    assert same(accumulate.matmul(x, y, 200), (x.double() - 200) @ y.double())


def test_mul_and_sum() -> None:
    x, gate = u8(2, 3, 4, 5), u8(2, 3, 1, 1, seed=2)
    assert same(accumulate.mul(x, gate, 9, 255), (x.double() - 9) * (gate.double() - 255))
    assert same(accumulate.reduce_sum(x, [2, 3], True, 9), (x.double() - 9).sum([2, 3], keepdim=True))
    assert same(accumulate.reduce_sum(x, [-1], False, 9), (x.double() - 9).sum(-1))


def test_sum_pools_count_nothing_for_padding() -> None:
    x = torch.tensor([[[[9, 10, 11]]]], dtype=torch.uint8)
    # windows (pad, 9), (10, 11) and, with ceil_mode, none that starts in the padding
    assert windows.sum_pool(x, 10, [1, 2], [1, 2], [0, 1], False).tolist() == [[[[-1, 1]]]]
    assert windows.sum_pool(x, 10, [1, 2], [1, 2], [0, 0], True).tolist() == [[[[-1, 1]]]]
    assert windows.sum_pool(x, 10, [1, 2], [1, 2], [0, 0], False).tolist() == [[[[-1]]]]
    assert windows.sum_pool(x[0], 10, [2], [1], [1], False).tolist() == [[[-1, -1, 1, 1]]]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pools(rank: int) -> None:
    x = u8(2, 3, *(7, 6, 5)[:rank])
    kernel, stride, padding = [3, 2, 2][:rank], [2, 1, 2][:rank], [1, 1, 0][:rank]
    average = windows.AVERAGE[rank](x.double() - 30, kernel, stride, padding, True, True)
    area = torch.tensor(kernel).prod()
    inside = windows.sum_pool(x, 30, kernel, stride, padding, False).double() / area
    exact = windows.AVERAGE[rank](x.double() - 30, kernel, stride, padding, False, True)
    torch.testing.assert_close(inside, exact, rtol=1e-15, atol=1e-12)
    assert windows.sum_pool(x, 30, kernel, stride, padding, True).shape == average.shape
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        value = (x.to(torch.int32) - 100).to(dtype)
        most = windows.max_pool(value, kernel, stride, padding, [1] * rank, True)
        assert most.dtype == dtype
        assert torch.equal(
            most.double(), windows.MAXIMUM[rank](value.double(), kernel, stride, padding, [1] * rank, True)
        )


def test_resize_is_a_weighted_sum_along_one_dimension() -> None:
    x = torch.tensor([[10, 20, 40]], dtype=torch.uint8)
    places, weights = torch.tensor([[0, 0, 2], [1, 1, 2]]), torch.tensor([[3, 1, 2], [1, 3, -1]])
    assert windows.resize(x, places, weights, 1, 10).tolist() == [[10, 30, 30]]
    assert windows.resize(x.T, places, weights, 0, 10).tolist() == [[10], [30], [30]]
    deep = windows.resize(windows.resize(u8(2, 3, 3), places, weights, 1, 10), places, weights, 2, 0)
    matrix = torch.tensor([[3.0, 1, 0], [1, 3, 0], [0, 0, 1]]).double()
    assert same(deep, matrix @ (u8(2, 3, 3).double() - 10) @ matrix.T)


def test_a_sum_beyond_32_bits_is_an_error() -> None:
    most = torch.tensor([2**31 - 1])
    x, w = torch.tensor([[1]], dtype=torch.uint8), torch.tensor([[1]], dtype=torch.int8)
    assert accumulate.linear(x, w, most - 1, 0).tolist() == [[2**31 - 1]]
    assert accumulate.linear(x, w, -most, 2).tolist() == [[-(2**31)]]
    with pytest.raises(AccumulatorOverflow, match="reaches 2147483648, which does not fit 32 bits"):
        accumulate.linear(x, w, most, 0)
    with pytest.raises(AccumulatorOverflow, match="reaches 2147483649"):
        accumulate.linear(x, w, -most - 1, 2)
    wide = torch.tensor([2**31 - 1], dtype=torch.int32)
    with pytest.raises(AccumulatorOverflow):
        accumulate.reduce_sum(torch.cat([wide, wide]), [0], False, 0)


def test_wide_values_have_no_zero_point() -> None:
    with pytest.raises(QuantizationError, match=r"int32 has the zero point 3"):
        accumulate.reduce_sum(torch.zeros(2, dtype=torch.int32), [0], False, 3)


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_moves_of_codes_are_atens_own(dtype: torch.dtype) -> None:
    """What integer graphs use of ATen does with codes what it does with floats."""
    x = codes((2, 3, 4), 0, 100, dtype)
    for move in (
        lambda v: aten.permute.default(v, [2, 0, 1]),
        lambda v: aten.reshape.default(v, [4, 6]),
        lambda v: aten.slice.Tensor(v, 2, 1, 4, 2),
        lambda v: aten.cat.default([v, v], 1),
        lambda v: aten.index_select.default(v, 2, torch.tensor([3, 3, 0])),
        lambda v: aten.constant_pad_nd.default(v, [1, 2, -1, 0], 77),
        lambda v: aten.reflection_pad1d.default(v, [1, 2]),
        lambda v: aten.clamp.default(v, 20, 60),
        lambda v: aten.embedding.default(v[0], torch.tensor([[1, 2]])),
    ):
        moved = move(x)
        assert moved.dtype == dtype
        assert torch.equal(moved.double(), move(x.double()))
