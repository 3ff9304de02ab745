"""Weights and biases in integers, dead channels too."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from planish.errors import QuantizationError
from planish.ir.quantized.accumulate import linear
from planish.ir.quantized.bounds import accumulator_bounds, prove_accumulators
from planish.ir.types import QuantParams
from planish.passes.quantize.weights import quantize_weight


def test_by_hand() -> None:
    weight = torch.tensor([[127.0, -63.5], [0.5, 0.25], [-254.0, 3.0]])
    found = quantize_weight(weight, torch.tensor([10.0, 1.0, -3.0]), 0.5, "fc")
    assert found.scales.tolist() == [1.0, 0.5 / 127, 2.0]
    assert found.weight.tolist() == [[127, -63], [127, 64], [-127, 2]]  # -63.5, 63.5 and 1.5, ties up
    # 10 / 0.5; 1 / (0.5 · 0.5 / 127) = 508; -3 / 1
    assert found.bias is not None
    assert found.bias.tolist() == [20, 508, -3]
    assert (found.weight.dtype, found.bias.dtype) == (torch.int8, torch.int32)


@pytest.mark.parametrize(("shape", "dim"), [((4, 3, 3, 3), 0), ((3, 4, 2, 2), 1), ((4, 7), 0)])
def test_every_weight_is_right_to_half_a_step_of_its_channel(shape: tuple[int, ...], dim: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(4).reshape(
        [-1 if d == dim else 1 for d in range(len(shape))]
    )
    found = quantize_weight(weight, None, 0.1, "conv", dim)
    off = (found.values(dim) - weight).abs().transpose(0, dim).flatten(1).amax(1)
    assert bool((off <= found.scales * 0.5 * (1 + 1e-12)).all())
    assert found.weight.abs().transpose(0, dim).flatten(1).amax(1).tolist() == [127] * 4
    assert found.bias is None


def test_dead_channels() -> None:
    """Nothing at all, a bias alone, and weights that vanish beside their bias."""
    weight = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1e-20, -1e-20]])
    bias = torch.tensor([0.0, 3.0, -1.0])
    found = quantize_weight(weight, bias, 0.02, "conv")
    assert found.bias is not None
    assert found.weight.tolist() == [[0, 0]] * 3
    assert found.bias.tolist() == [0, 2**29, -(2**29)]
    real = linear(torch.tensor([[255, 0]], dtype=torch.uint8), found.weight, found.bias, 0) * (0.02 * found.scales)
    assert torch.allclose(real, bias.double(), rtol=1e-8)


@given(st.floats(1e-6, 1e6), st.floats(-1e6, 1e6), st.floats(1e-6, 1e3), st.integers(1, 64))
def test_any_bias_leaves_room_for_the_products(size: float, bias: float, x_scale: float, inputs: int) -> None:
    found = quantize_weight(torch.full((1, inputs), size), torch.tensor([bias]), x_scale, "fc")
    prove_accumulators(
        *accumulator_bounds(found.weight, found.bias, QuantParams(x_scale, 128, 0, 255, torch.uint8)), "fc"
    )


@pytest.mark.parametrize("what", ["weight", "bias"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_no_number_is_refused(what: str, bad: float) -> None:
    tensors = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    tensors[what][0] = bad
    with pytest.raises(QuantizationError, match=f"layer1.fc: its {what} holds NaN"):
        quantize_weight(tensors["weight"], tensors["bias"], 1.0, "layer1.fc")
