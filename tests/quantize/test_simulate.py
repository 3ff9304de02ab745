"""The simulation: values and weights of the float program rounded to codes, against hand and integers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from planish.ir.quantized.operators import OPERATORS
from planish.ir.text import parse_program
from planish.passes.quantize.bias import InputMeans
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.integerize import Settings, integerize
from planish.passes.quantize.observers import MinMax
from planish.passes.quantize.simulate import Simulated, simulate


def simulated(text: str, data: Tensor, inputs: Tensor, correct: bool = False) -> Simulated:
    assert OPERATORS
    program = parse_program(text)
    means = InputMeans(program)
    ranges = calibrate(program, [data], MinMax, means=means if correct else None)
    integer = integerize(program, ranges, Settings(means=means.means()))
    return simulate(program, integer, [inputs], means.means())


LINEAR = """program(%x: f32[1, 2]) optimized {
  @w: f32[1, 2] = [[1.0, 0.3]]
  %y: f32[1, 1] = linear(%x, @w, none)   # fc
  %z: f32[1, 1] = sigmoid(%y)
  return (%y, %z)
}"""


def test_by_hand() -> None:
    """Codes of x are steps of 0.01, those of the weights of 1/127: 0.3 is 38/127; y has codes of 2.05/255."""
    x = torch.tensor([[1.0, 2.0]])
    text = LINEAR.replace("%y, %z", "%y")
    made = simulated(text.replace("  %z: f32[1, 1] = sigmoid(%y)\n", ""), torch.tensor([[0.0, 2.55]]), x)
    assert float(made.exact[0]) == pytest.approx(1.6)
    assert float(made.fake[0]) == pytest.approx(1 + 2 * 38 / 127, abs=1e-6)
    assert float(made.integer[0]) == pytest.approx(1 + 2 * 38 / 127, abs=1e-6)
    assert [layer.node for layer in made.layers] == ["x"]


def test_corrected_biases_are_simulated() -> None:
    """Where all data is one point, its mean is it, and the correction takes all of the error back."""
    x = torch.tensor([[1.0, 2.55]])
    text = LINEAR.replace("%y, %z", "%y").replace("  %z: f32[1, 1] = sigmoid(%y)\n", "")
    made = simulated(text, x, x, correct=True)
    assert float(made.fake[0]) == pytest.approx(1 + 0.3 * 2.55, abs=1e-6)
    assert float(made.integer[0]) == pytest.approx(1 + 0.3 * 2.55, abs=1e-4)  # a bias is rounded to 0.01/127


def test_noise_of_its_own_and_of_all_before() -> None:
    """z starts from the exact y, rounded to its codes, and y from the exact x: each is a step of its own."""
    made = simulated(LINEAR, torch.tensor([[-1.0, -1.0], [2.55, 2.55]]), torch.tensor([[0.777, 1.234]]))
    y, z = (layer for layer in made.layers if layer.node in ("y", "z"))
    assert y.layers == ("fc",)
    assert 20 < y.own < 70
    assert 20 < z.own < 70
    assert math.isfinite(z.carried)


@pytest.mark.parametrize(
    ("weight", "call"),
    [
        ("f32[6, 2, 3, 3]", "convolution(%x, @w, @b, [1, 1], [1, 1], [1, 1], false, [0, 0], 2)"),
        ("f32[4, 3, 3, 3]", "convolution(%x, @w, @b, [2, 2], [1, 1], [1, 1], true, [1, 1], 2)"),
        ("f32[6, 5]", "linear(%x, @w, @b)"),
    ],
    ids=["grouped", "transposed", "linear"],
)
def test_weights_are_those_of_the_integers(weight: str, call: str) -> None:
    """Between codes in and an accumulator out only the bias is rounded, to a unit of the accumulator."""
    text = f"program(%x: f32[2, 4, 5, 5]) optimized {{\n  @w: {weight}\n  @b: f32[6]\n  %y = {call}\n  return %y\n}}"
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    made = simulated(text, x, x)
    scale = float(made.exact[0].abs().max())
    assert float((made.fake[0] - made.exact[0]).abs().max()) > 1e-3 * scale
    assert float((made.fake[0] - made.integer[0]).abs().max()) < 5e-5 * scale
