"""Fixed-point functions, softmax and norms against float64."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from planish.errors import QuantizationError
from planish.ir.quantized import fixed, rows
from planish.ir.quantized.constants import norm, softmax_scale
from planish.ir.types import QuantParams

U8, S8, S16, S32 = torch.uint8, torch.int8, torch.int16, torch.int32
HALF = 0.5 + 2.0**-8
"""What a result may be off, in codes: half a code for rounding, and a little. (1 is what is promised.)"""


def randoms(*shape: int, low: int, high: int, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def test_powers_of_two() -> None:
    sampled = randoms(4096, low=0, high=33 << 24)
    t = torch.cat([torch.arange(0, 1 << 24, 1021), sampled, torch.tensor([31 << 24, 1 << 40])])
    exact = 2.0 ** (30 - t.double() / 2**24)
    got = fixed.exp2_below(t).double()
    assert float(((got - exact).abs() - exact * 2.0**-21).max()) <= 1.0
    assert fixed.exp2_below(torch.tensor([32 << 24, 1 << 60])).tolist() == [0, 0]
    steps = fixed.exp2_below(torch.arange(1 << 16) << 12).diff()
    assert int(steps.max()) <= 0  # it never rises


def test_reciprocals() -> None:
    m = torch.cat([randoms(4096, low=2**30, high=2**31), torch.tensor([2**30, 2**31 - 1])])
    got = fixed.reciprocal(m)
    assert float((got.double() * m.double() / 2.0**61 - 1).abs().max()) <= 2.0**-28
    assert int(got.max()) <= 2**31


def test_inverse_roots() -> None:
    powers = 2 ** torch.arange(63)
    w = torch.cat(
        [powers, powers + 1, torch.arange(1, 999), randoms(999, low=1, high=2**62), torch.tensor([2**63 - 1])]
    )
    root, shift = fixed.inverse_root(w)
    found = zip(root.tolist(), shift.tolist(), w.tolist(), strict=True)
    off = [abs(Fraction(e) ** 2 * value / Fraction(4) ** k - 1) for e, k, value in found]
    assert max(off) <= Fraction(2) ** -26  # squared: twice the error of the root
    assert int(root.max()) <= 2**31
    assert fixed.inverse_root(torch.tensor([0]))[0].tolist() == [0]


def test_bit_lengths() -> None:
    values = [0, 1, 2, 3, 4, 255, 256, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1]
    assert fixed.bit_length(torch.tensor(values)).tolist() == [v.bit_length() for v in values]


def softmax_off(x: Tensor, scale: float, bits: int, dim: int = -1) -> float:
    number = softmax_scale(scale)
    got = rows.softmax(x, None, number.multiplier, number.shift, dim, bits, U8 if bits == 8 else S16)
    exact = (torch.softmax(x.double() * scale, dim) * 2**bits).clamp(max=2**bits - 1)
    return float((got.double() - exact).abs().max())


def test_softmax_of_all_bytes() -> None:
    """A softmax depends on distances from the largest alone, so these are all rows of two and of three bytes."""
    below = torch.arange(256)
    pairs = torch.stack([torch.full_like(below, 255), 255 - below], 1)
    for scale in (0.003, 0.05, 1.0, 20.0):
        assert softmax_off(pairs.to(U8), scale, 8) <= HALF
        assert softmax_off((pairs - 128).to(S8), scale, 15) <= HALF
    triples = torch.cat([torch.full((65536, 1), 255), torch.cartesian_prod(255 - below, 255 - below)], 1)
    assert softmax_off(triples.to(U8), 0.05, 8) <= HALF


def test_softmax_does_not_see_a_shift() -> None:
    number = softmax_scale(0.1)
    x = randoms(8, 50, low=0, high=200)
    found = [rows.softmax(v, None, number.multiplier, number.shift, -1, 8, U8) for v in (x.to(U8), (x - 2**31).to(S32))]
    assert torch.equal(*found)


@pytest.mark.parametrize(("count", "high"), [(1, 256), (7, 256), (197, 256), (1000, 4), (100, 2**31 - 1)])
def test_softmax_of_rows(count: int, high: int) -> None:
    x = randoms(16, count, low=0, high=high)
    for dtype, bits in ((S32, 8), (S32, 15)):
        assert softmax_off(x.to(dtype), 10.0 / high, bits) <= HALF
        assert softmax_off(x.T.contiguous().to(dtype), 10.0 / high, bits, 0) <= HALF


def test_softmax_of_extremes() -> None:
    x = torch.tensor([[-(2**31), 2**31 - 1], [5, 5], [2**31 - 1, 2**31 - 2]], dtype=S32)
    number = softmax_scale(1.0)
    got = rows.softmax(x, None, number.multiplier, number.shift, -1, 8, U8)
    assert got.tolist() == [[0, 255], [128, 128], [187, 69]]  # 256 / (1 + e^∓1) is 187.15 and 68.85
    empty = torch.zeros((2, 0), dtype=U8)
    assert rows.softmax(empty, None, number.multiplier, number.shift, -1, 8, U8).shape == (2, 0)


def test_more_bits_than_the_dtype_saturate() -> None:
    number = softmax_scale(math.log(2))  # a step halves
    x = torch.tensor([[10, 10, 9, 7]], dtype=U8)  # 8/21, 8/21, 4/21, 1/21 of 1024
    assert rows.softmax(x, None, number.multiplier, number.shift, -1, 10, U8).tolist() == [[255, 255, 195, 49]]


def test_a_mask_takes_places_out() -> None:
    number = softmax_scale(1.0)
    x = torch.tensor([[200, 5, 5], [1, 2, 3]], dtype=U8)
    mask = torch.tensor([[False, True, True], [False, False, False]])
    assert rows.softmax(x, mask, number.multiplier, number.shift, -1, 8, U8).tolist() == [[0, 128, 128], [0, 0, 0]]


def norm_off(
    x: Tensor, source: QuantParams, gamma: Tensor, beta: Tensor, eps: float, center: bool, bits: int = 8
) -> float:
    """How many codes a norm over the last dimension is off."""
    count = x.shape[-1]
    values = source.values(x)
    centered = values - values.mean(-1, keepdim=True) if center else values
    exact = (centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt()).nan_to_num() * gamma + beta
    target = QuantParams.symmetric(float(exact.abs().max()) * 0.9 + 1e-3, bits)
    c = norm(gamma, beta, eps, count, source, target)
    operator = rows.layer_norm if center else rows.rms_norm
    got = operator(
        x, c.weight, c.bias, 1, source.zero, c.eps, c.shift, target.zero, target.low, target.high, target.dtype
    )
    wanted = (exact / target.scale).clamp(target.low, target.high)
    return float((got.double() - wanted).abs().max())


@pytest.mark.parametrize(("center", "third", "eps"), [(True, 0, 1e-5), (True, 77, 0.0), (False, 77, 1e-5)])
def test_norms_of_every_pair_of_bytes(center: bool, third: int, eps: float) -> None:
    pairs = torch.cartesian_prod(torch.arange(256), torch.arange(256))
    x = torch.cat([pairs, torch.full((len(pairs), 1), third)], 1).to(U8)
    gamma, beta = torch.tensor([1.0, -0.3, 2.5]).double(), torch.tensor([0.1, 0.0, -1.0]).double()
    assert norm_off(x, QuantParams.asymmetric(-1.0, 2.0), gamma, beta, eps, center) <= HALF


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("count", [1, 2, 64, 384, 4095])
def test_norms_of_rows(center: bool, count: int) -> None:
    gamma = torch.linspace(-3, 3, count).double()
    beta = torch.linspace(0, 1, count).double()
    narrow, wide = QuantParams.asymmetric(-3.0, 2.0), QuantParams.symmetric(50.0, 16)
    x = randoms(16, count, low=0, high=256).to(U8)
    assert norm_off(x, narrow, gamma, beta, 1e-6, center) <= HALF
    x = randoms(16, count, low=-(2**15) + 1, high=2**15).to(S16)
    assert norm_off(x, wide, gamma, beta, 1e-6, center) <= HALF
    assert norm_off(x >> 9, wide, gamma, beta, 1e-6, center, bits=16) <= 1
    outlier = x >> 12
    outlier[:, 0] = 2**15 - 1
    assert norm_off(outlier, wide, gamma, beta, 1e-6, center) <= HALF


def test_rows_of_one_value_are_the_offset() -> None:
    """Nothing to divide by, and no eps: 0 / 0 of the float model is beta here."""
    x = torch.full((2, 4), 9, dtype=U8)
    params = QuantParams.symmetric(127.0)
    for eps in (0.0, 1e-5):
        c = norm(torch.ones(4), torch.tensor([1.0, 2.0, -3.0, 0.0]), eps, 4, params, params)
        got = rows.layer_norm(x, c.weight, c.bias, 1, 3, c.eps, c.shift, 0, -127, 127, S8)
        assert got.tolist() == [[1, 2, -3, 0]] * 2


def test_a_norm_over_several_dimensions() -> None:
    x = randoms(2, 3, 4, 5, low=0, high=256).to(U8)
    params = QuantParams.asymmetric(0.0, 1.0)
    c = norm(torch.ones(1), torch.zeros(1), 1e-5, 20, params, QuantParams.symmetric(3.0))
    args = (0, c.eps, c.shift, 0, -127, 127, S8)
    flat = rows.layer_norm(x.reshape(2, 3, 20), c.weight, c.bias, 1, *args)
    assert torch.equal(rows.layer_norm(x, c.weight, c.bias, 2, *args).reshape(2, 3, 20), flat)


@pytest.mark.parametrize(("dtype", "count"), [(S16, 2**15 + 1), (S32, 4)])
def test_norms_that_do_not_fit_are_refused(dtype: torch.dtype, count: int) -> None:
    one = torch.ones(1, dtype=torch.int64)
    with pytest.raises(QuantizationError, match="leaves 62 bits"):
        rows.layer_norm(torch.zeros(1, count, dtype=dtype), one, one, 1, 0, 0, 9, 0, 0, 9, U8)


def test_the_longest_rows_and_the_largest_values_do_not_wrap() -> None:
    count = 2**15
    x = torch.full((1, count), -(2**15), dtype=S16)
    x[0, ::2] = 2**15 - 1
    params = QuantParams.symmetric(1.0, 16)
    gamma, beta = torch.ones(count), torch.zeros(count)
    c = norm(gamma, beta, 1e-5, count, params, QuantParams.symmetric(127.0))
    got = rows.layer_norm(x, c.weight, c.bias, 1, 0, c.eps, c.shift, 0, -127, 127, S8)
    assert got[0, :4].tolist() == [1, -1, 1, -1]
    alone = torch.zeros((1, count), dtype=S16)
    alone[0, 0] = 2**15 - 1
    got = rows.layer_norm(alone, c.weight, c.bias, 1, 0, 0, c.shift, 0, -127, 127, S8)
    assert got[0, :2].tolist() == [127, 0]  # sqrt(2^15) = 181
    assert math.isclose(2 ** rows.fraction(count) * 181.02, 2**30 * 181.02 / 2**8)
