"""The proof against overflow: sound for every input, and reached by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from planish.errors import AccumulatorOverflow, QuantizationError
from planish.ir.quantized.accumulate import convolution, linear
from planish.ir.quantized.bounds import accumulator_bounds, prove_accumulators
from planish.ir.types import QuantParams

X = QuantParams(1.0, 100, 10, 250, torch.uint8)


def weights(*shape: int) -> Tensor:
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(3)).to(torch.int8)


def test_by_hand() -> None:
    w = torch.tensor([[2, -3], [0, 0], [-1, -1]], dtype=torch.int8)
    least, most = accumulator_bounds(w, torch.tensor([7, 8, 9]), X)
    # x - z lies in -90..150: 2 · 150 + 3 · 90 and -2 · 90 - 3 · 150; nothing; 90 + 90 and -150 - 150
    assert most.tolist() == [7 + 570, 8, 9 + 180]
    assert least.tolist() == [7 - 630, 8, 9 - 300]


def test_a_linear_layer_reaches_its_bounds() -> None:
    w = weights(5, 20)
    least, most = accumulator_bounds(w, None, X)
    worst = torch.where(w > 0, 250, 10).to(torch.uint8)
    best = torch.where(w > 0, 10, 250).to(torch.uint8)
    assert torch.equal(linear(worst, w, None, 100).diagonal().long(), most)
    assert torch.equal(linear(best, w, None, 100).diagonal().long(), least)


@pytest.mark.parametrize(
    ("shape", "channels", "transposed", "groups"),
    [((4, 3, 3, 3), 3, False, 1), ((4, 2, 3), 4, False, 2), ((4, 3, 3, 3), 4, True, 1), ((4, 3, 2, 2), 4, True, 2)],
)
def test_convolutions_stay_within(shape: tuple[int, ...], channels: int, transposed: bool, groups: int) -> None:
    w, rank = weights(*shape), len(shape) - 2
    least, most = accumulator_bounds(w, None, X, transposed, groups)
    generator = torch.Generator().manual_seed(5)
    x = torch.where(torch.rand((40, channels, *[5] * rank), generator=generator) < 0.5, 10, 250).to(torch.uint8)
    y = convolution(x, w, None, 100, [1] * rank, [1] * rank, [1] * rank, transposed, [0] * rank, groups)
    reach = y.transpose(0, 1).flatten(1).long()
    assert reach.shape[0] == len(least)
    assert bool((reach.amin(1) >= least).all())
    assert bool((reach.amax(1) <= most).all())
    assert bool((reach.amax(1) > most * 0.2).all())  # each channel has its own bound, no other's


def test_padding_counts() -> None:
    """Where every code is above the zero point, the least sum of positive weights is that of padding alone."""
    x = QuantParams(1.0, 0, 0, 255, torch.uint8)
    least, most = accumulator_bounds(torch.tensor([[3, 4]], dtype=torch.int8), None, x)
    assert (least.item(), most.item()) == (0, 7 * 255)


def test_the_proof_names_the_worst_channel() -> None:
    fits = torch.tensor([2**31 - 1, 0])
    prove_accumulators(-fits - 1, fits, "conv")
    with pytest.raises(AccumulatorOverflow, match=r"layer1.conv: .*channel 1 can reach 0..2147483648"):
        prove_accumulators(torch.tensor([0, 0]), torch.tensor([5, 2**31]), "layer1.conv")
    with pytest.raises(AccumulatorOverflow, match=r"channel 0 can reach -2147483649..0"):
        prove_accumulators(torch.tensor([-(2**31) - 1, 0]), torch.tensor([0, 5]), "conv")


@pytest.mark.parametrize(("dtype", "fitting"), [(torch.uint8, 66311), (torch.int8, 133144)])
def test_the_longest_sums_of_full_range_weights(dtype: torch.dtype, fitting: int) -> None:
    """2^31 / (255 · 127) and 2^31 / (127 · 127) products fit, one more does not."""
    x = QuantParams.asymmetric(0.0, 1.0) if dtype == torch.uint8 else QuantParams.symmetric(1.0)
    for length in (fitting, fitting + 1):
        bounds = accumulator_bounds(torch.full((1, length), 127, dtype=torch.int8), None, x)
        if length == fitting:
            prove_accumulators(*bounds, "linear")
        else:
            with pytest.raises(AccumulatorOverflow):
                prove_accumulators(*bounds, "linear")


def test_floats_have_no_bounds() -> None:
    with pytest.raises(QuantizationError, match="Quantize them first"):
        accumulator_bounds(torch.ones(1, 1), None, X)
