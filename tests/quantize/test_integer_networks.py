"""Whole networks in integers: no float inside, every value of every layer within one rounding of the one before."""

from __future__ import annotations

import pytest
import torch
import zoo
from one_step import assert_every_step, sqnr
from torch import Tensor, nn

from planish.ir.capture import capture
from planish.ir.program import Program
from planish.ir.verify import verify
from planish.passes.manager import run_passes
from planish.passes.pipelines import EXACT
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.integerize import integerize
from planish.passes.quantize.observers import MinMax

BATCHES = 8
LONG = (
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "inception_v3",
    "vgg11_bn",
    "efficientnet_b0",
    "regnet_y_400mf",
)


def integer_of(model: nn.Module, batches: list[tuple[Tensor, ...]]) -> tuple[Program, Program]:
    """(float program, integer program) of a model."""
    program = run_passes(capture(model, batches[0]), EXACT)
    made = integerize(program, calibrate(program, batches, MinMax))
    verify(made)
    return program, made


def calls_of(made: Program) -> list[str]:
    return [str(node.target) for node in made.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_large", "densenet121", *(pytest.param(n, marks=pytest.mark.bars) for n in LONG)],
)
def test_networks_of_the_zoo(name: str) -> None:
    """Inputs seen in calibration and others, which leave ranges."""
    entry = zoo.find(name)
    model, args, _ = entry.small()
    generator = torch.Generator().manual_seed(1)
    batches = [entry.small_size.inputs(generator, 1)[0] for _ in range(BATCHES)]
    program, made = integer_of(model, batches)
    calls = calls_of(made)
    assert (calls.count("planish.quantize.default"), calls.count("planish.dequantize.default")) == (1, 1)
    products = sum("convolution" in call or "linear" in call for call in calls)
    assert products == sum("convolution" in call or "linear" in call for call in calls_of(program))
    for inputs in (batches[0], args):
        assert assert_every_step(program, made, inputs) > products


class Torture(nn.Module):
    """Residuals, concatenations, pools, gates and upsampling, each value with several readers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 4, 1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(12, 6, 2, 2)
        self.end = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = (self.left(x) + x).clamp(-1, 4)
        gate = nn.functional.hardsigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        y = y * gate + nn.functional.max_pool2d(x, 3, 1, 1)
        z = torch.cat([y, nn.functional.avg_pool2d(self.right(y).relu(), 3, 1, 1)], 1)
        up = nn.functional.silu(self.up(z))
        small = nn.functional.interpolate(up, scale_factor=0.5, mode="nearest")
        return self.end(small.amax((2, 3))), (small - up.mean()).relu()


def test_a_net_of_everything() -> None:
    """A signal of 30 dB stays through a dozen roundings to 8 bits."""
    torch.manual_seed(0)
    model = Torture().eval()
    batches = [(torch.randn(2, 3, 12, 12),) for _ in range(BATCHES)]
    program, made = integer_of(model, batches)
    for inputs in batches[:2]:
        assert_every_step(program, made, inputs)
    assert sqnr(program, made, *batches) > 30
