"""Bias correction: the mean of every channel's error over the calibration data becomes that of the bias's rounding."""

from __future__ import annotations

import pytest
import torch
from one_step import assert_every_step
from torch import Tensor, nn

from planish.ir.capture import capture
from planish.ir.interpret import reference
from planish.ir.text import parse_program
from planish.passes.manager import run_passes
from planish.passes.pipelines import EXACT
from planish.passes.quantize.bias import InputMeans, corrected
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.integerize import Settings, integerize
from planish.passes.quantize.observers import MinMax


def test_by_hand() -> None:
    """E[x] = (3, 1), ŵ - w = ((1, -2), (0.5, 0)): shifts 3 - 2 = 1 and 1.5."""
    program = parse_program(
        """program(%x: f32[1, 2]) optimized {
          @w: f32[2, 2] = [[1.0, 1.0], [1.0, 1.0]]
          %y: f32[1, 2] = linear(%x, @w, none)
          return %y
        }"""
    )
    means = InputMeans(program)
    calibrate(program, [torch.tensor([[2.0, 0.0]]), torch.tensor([[4.0, 2.0]])], MinMax, means=means)
    (x, mean), *rest = means.means().items()
    assert (x.name, mean.tolist(), rest) == ("x", [[3.0, 1.0]], [])
    node = next(node for node in program.graph.nodes if node.op == "call_function")
    error = torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=torch.float64)
    assert corrected(node, mean, error, None).tolist() == [-1.0, -1.5]
    assert corrected(node, mean, error, torch.tensor([1.0, 10.0])).tolist() == [0.0, 8.5]


LAYERS = {
    "padded": lambda: nn.Conv2d(6, 8, 3, padding=2, stride=2),
    "grouped": lambda: nn.Conv2d(6, 9, 3, padding=1, groups=3, bias=False),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "transposed": lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2),
    "linear": lambda: nn.Linear(5, 8, bias=False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_mean_of_the_error_is_gone(name: str) -> None:
    """Inputs are codes, far from 0 on the mean, so that nothing is rounded but weights, and biases far less."""
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    with torch.no_grad():
        layer.weight.mul_(1 + 20 * (torch.rand_like(layer.weight) > 0.97))  # few large ones: coarse steps
    batches = [torch.randint(0, 256, (2, 6, 4, 5)).float() for _ in range(4)]
    batches[0][0, 0, 0, :2] = torch.tensor([0.0, 255.0])
    program = run_passes(capture(layer, (batches[0],)), EXACT)
    means = InputMeans(program)
    ranges = calibrate(program, batches, MinMax, means=means)
    plain, better = (integerize(program, ranges, settings) for settings in (None, Settings(means=means.means())))
    assert assert_every_step(program, plain, [batches[0]]) == 1
    errors = [torch.stack([made(x).double() - reference(program, [x])[0] for x in batches]) for made in (plain, better)]
    shifts = [_by_channel(error, name).abs() for error in errors]
    (step,) = (scale.flatten() for weight, scale in better.weights.items() if weight.endswith("scale"))
    assert bool((shifts[1] <= 0.501 * step).all())  # the bias is rounded to steps of the accumulator
    assert float(shifts[0].max()) > 5 * float(step.max())
    assert float(errors[1].square().mean()) < float(errors[0].square().mean())


def _by_channel(error: Tensor, name: str) -> Tensor:
    """Means over batches and places."""
    channel = 4 if name == "linear" else 2
    return error.mean([dim for dim in range(5) if dim != channel])
