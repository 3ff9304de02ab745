"""The float64 interpreter: nothing rounds to float32 on the way, and models agree with their programs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compare import assert_close_to_reference, unit_in_last_place
from torch import nn
from torch.nn import functional as F

from planish.ir import interpret
from planish.ir.capture import capture

THIRD = torch.tensor([1.0, 2.0]) / 3  # float32: not the real thirds


def run(forward, *args: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """The reference of a function, checked to be the same through capture and without."""

    class Model(nn.Module):
        def forward(self, *xs: torch.Tensor) -> torch.Tensor:
            return forward(*xs)  # type: ignore[no-any-return]

    model = Model().eval()
    (result,) = interpret.reference(capture(model, args), args)
    assert torch.equal(result, interpret.reference_model(model, args))
    return result


# 2**25 + 1 is no float32, so it survives only where everything is float64.
ODD = 2**25 + 1
ROUNDING = {
    "cast": lambda x: (x.double() * 2**25 + 1).float() - 2**25,
    "half": lambda x: (x * ODD).to(torch.bfloat16).float() - 2**25,
    "constant": lambda x: x * torch.full((2,), 1.0, dtype=torch.float32) * ODD - 2**25,
    "softmax dtype": lambda x: torch.softmax(x * 0, 0, dtype=torch.float32) * 2 * ODD - 2**25,
    "sum dtype": lambda x: torch.sum(x * ODD, dim=0, keepdim=True, dtype=torch.float32) / 2 - 2**25,
    "zeros": lambda x: (torch.zeros(2) + ODD) * x - 2**25,
    "integer mean": lambda x: (torch.arange(2) * 2 * ODD).mean(dtype=torch.float32) * x - 2**25,
    "integer division": lambda x: (torch.arange(2) * 0 + ODD) / 1 * x - 2**25,
    "type_as": lambda x: (x.double() * ODD).type_as(x) - 2**25,
}


@pytest.mark.parametrize("case", ROUNDING)
def test_nothing_rounds_to_float32(case: str) -> None:
    result = run(ROUNDING[case], torch.ones(2))
    assert result.dtype == torch.float64
    assert result.tolist() == [1.0] * result.numel()


def test_weights_and_inputs_are_widened_not_changed() -> None:
    assert run(lambda x: x * 3, THIRD).tolist() == [float(np.float32(1 / 3)) * 3, float(np.float32(2 / 3)) * 3]
    linear = nn.Linear(2, 1, bias=False).eval()
    program = capture(linear, THIRD)
    (result,) = interpret.reference(program, [THIRD])
    exact = sum(w * x for w, x in zip(linear.weight[0].tolist(), THIRD.tolist(), strict=True))
    assert float(result.item()) == pytest.approx(exact, rel=1e-15)


def test_integers_stay_and_the_default_dtype_comes_back() -> None:
    assert run(lambda x: x + torch.arange(2), torch.tensor([1, 2])).dtype == torch.int64
    with pytest.raises(RuntimeError, match="inside"), interpret.widened():
        raise RuntimeError("inside")
    assert torch.get_default_dtype() == torch.float32
    assert torch.ones(1, dtype=torch.float32).dtype == torch.float32


class Layers(nn.Module):
    """Every family with a kernel of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Hardswish(), nn.MaxPool2d(2))
        self.norm = nn.Sequential(nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.AdaptiveAvgPool2d(4))
        self.attend = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.rms = nn.RMSNorm(8)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        y = self.rms(self.attend(y))
        causal = F.scaled_dot_product_attention(y, y, y, is_causal=True)
        mask = torch.full((16, 16), float("-inf")).triu(1)
        masked = F.scaled_dot_product_attention(y, y, y, attn_mask=mask)
        big = F.interpolate(x, scale_factor=1.7, mode="bilinear", align_corners=False)
        return causal, masked, big, y.gather(1, ids), torch.log_softmax(y, -1).std(1), y.cumsum(1), ids


def test_every_family_runs_in_float64_and_eager_is_the_model() -> None:
    torch.manual_seed(0)
    model = Layers().eval()
    args = (torch.randn(2, 3, 19, 19), torch.randint(0, 16, (2, 5, 8)))
    program = capture(model, args)
    with torch.no_grad():
        expected = model(*args)
    actual, reference = interpret.eager(program, args), interpret.reference(program, args)
    wide = interpret.reference_model(model, args)
    assert [t.dtype for t in reference] == [torch.float64] * 6 + [torch.int64]
    for one, other in zip(reference, wide, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert_close_to_reference(actual, wide, expected)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_reference_model_leaves_the_model_alone_even_where_deepcopy_fails() -> None:
    model = nn.utils.weight_norm(nn.Linear(3, 2)).eval()
    x = torch.randn(4, 3)
    before = model(x)
    assert interpret.reference_model(model, (x,)).dtype == torch.float64
    assert torch.equal(model(x), before)


# ---- the comparison itself


def test_the_comparison_accepts_eagers_own_error_and_no_more() -> None:
    reference = torch.linspace(1, 100, 50, dtype=torch.float64)
    eager = reference.float()
    ulp = unit_in_last_place(100.0, "float32")
    assert ulp == 2.0**-17  # 64 <= 100 < 128, 23 bits of mantissa
    own = float((eager.double() - reference).abs().max())
    shifted = reference.clone()
    shifted[3] += 4 * own + 7 * ulp
    assert assert_close_to_reference(shifted.float(), reference, eager) > 4
    shifted[3] += 2 * ulp
    with pytest.raises(AssertionError, match=r"output: error .* 1 of 50 elements are off"):
        assert_close_to_reference(shifted.float(), reference, eager)


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (np.array([1.0, np.inf, 3.0], np.float32), r"NaN or inf at \(1,\)"),
        (np.array([np.nan, np.nan, -np.inf], np.float32), r"NaN or inf at \(0,\)"),
        (np.array([1.0, np.nan, np.inf], np.float32), r"NaN or inf at \(2,\)"),
        (np.array([1.0, np.nan], np.float32), "shape"),
        (np.array([1.0, np.nan, -np.inf], np.float64), "dtype float64 should be float32"),
    ],
)
def test_the_comparison_wants_the_same_shape_dtype_and_odd_values(actual: np.ndarray, message: str) -> None:
    eager = np.array([1.0, np.nan, -np.inf], np.float32)
    assert assert_close_to_reference(eager, eager.astype(np.float64), eager) == 0
    with pytest.raises(AssertionError, match=message):
        assert_close_to_reference(actual, eager.astype(np.float64), eager)


def test_the_comparison_walks_nested_outputs_and_wants_equal_integers() -> None:
    eager = {"ids": torch.arange(3), "pair": (torch.ones(1, dtype=torch.bool), None, 3)}
    assert assert_close_to_reference(eager, eager, eager) == 0
    for wrong in (
        {"ids": torch.arange(3) + 1, "pair": eager["pair"]},
        {"ids": eager["ids"], "pair": (torch.zeros(1, dtype=torch.bool), None, 3)},
        {"ids": eager["ids"], "pair": (torch.ones(1, dtype=torch.bool), None, 3.0)},
        {"ids": eager["ids"], "pair": eager["pair"][:2]},
        {"pair": eager["pair"], "ids": eager["ids"]},
    ):
        with pytest.raises(AssertionError):
            assert_close_to_reference(wrong, eager, eager)


def test_the_comparison_knows_narrow_and_wide_floats() -> None:
    assert unit_in_last_place(1.0, "bfloat16") == 2.0**-7
    assert unit_in_last_place(0.0, "float32") == 2.0**-149
    one = torch.ones(1, dtype=torch.float64)
    assert_close_to_reference(one + 200 * 2.0**-52, one, one)
    with pytest.raises(AssertionError, match="exceeds"):
        assert_close_to_reference(one + 300 * 2.0**-52, one, one)
