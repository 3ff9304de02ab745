"""Every operator that has an integer form: each value is within one rounding of float64 of the codes before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from one_step import assert_every_step
from torch import Tensor, nn

from planish.ir.capture import capture
from planish.ir.program import Program
from planish.ir.verify import verify
from planish.passes.manager import run_passes
from planish.passes.pipelines import EXACT
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.integerize import integerize
from planish.passes.quantize.observers import MinMax

Case = tuple[Callable[..., Any], tuple[tuple[int, ...], ...], tuple[nn.Module, ...]]
"""A function of layers and inputs, shapes of inputs, layers."""
IMAGE, ROW, LINE, VOLUME = (2, 6, 7, 9), (3, 10), (2, 4, 11), (1, 2, 5, 6, 4)


class Model(nn.Module):
    """Functions side by side, each with layers and inputs of its own."""

    def __init__(self, cases: list[Case]) -> None:
        super().__init__()
        self.cases = cases
        self.layers = nn.ModuleList(layer for _, _, layers in cases for layer in layers)

    def forward(self, *inputs: Tensor) -> Any:
        rest = iter(inputs)
        return [function(*layers, *(next(rest) for _ in shapes)) for function, shapes, layers in self.cases]


def integer(cases: list[Case]) -> tuple[Program, Program, tuple[Tensor, ...]]:
    """(float program, integer program, inputs), calibrated with the inputs that it is checked with."""
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(shape, generator=generator) * 2 for _, shapes, _ in cases for shape in shapes)
    model = Model(cases).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    program = run_passes(capture(model, inputs), EXACT)
    made = integerize(program, calibrate(program, [inputs], MinMax))
    verify(made)
    return program, made, inputs


def targets(program: Program) -> list[str]:
    """The operators called, without quantize and dequantize at the ends."""
    calls = [str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"]
    return [name for name in calls if name not in ("quantize", "dequantize")]


def layer(made: nn.Module, shape: tuple[int, ...]) -> Case:
    """A layer and a ReLU."""
    return lambda c, x: c(x).relu(), (shape,), (made,)


def case(shapes: Any, function: Callable[..., Any]) -> Case:
    """A function of inputs of these shapes."""
    return function, shapes, ()


FAMILIES: dict[str, list[Case]] = {
    "convolutions": [
        layer(nn.Conv2d(6, 5, 3), IMAGE),
        layer(nn.Conv2d(6, 5, 3, padding=1, stride=2, bias=False), IMAGE),
        layer(nn.Conv2d(6, 12, 3, padding=2, dilation=2, groups=3), IMAGE),
        layer(nn.Conv2d(6, 6, 3, padding=1, groups=6), IMAGE),
        layer(nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), IMAGE),
        layer(nn.Conv1d(4, 6, 3, padding=1), LINE),
        layer(nn.Conv3d(2, 3, 3, padding=1), VOLUME),
        layer(nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), IMAGE),
        layer(nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), IMAGE),
        layer(nn.ConvTranspose1d(4, 4, 4, stride=2, groups=4), LINE),
        layer(nn.Linear(10, 7), ROW),
        layer(nn.Linear(9, 7, bias=False), IMAGE),
        layer(nn.PReLU(6), IMAGE),
        layer(nn.PReLU(), IMAGE),
    ],
    "sums": [
        case((IMAGE, IMAGE), lambda x, y: x + y),
        case((IMAGE, IMAGE), lambda x, y: torch.add(x, y, alpha=0.3)),
        case((IMAGE, (6, 1, 1)), lambda x, y: x + y),
        case((IMAGE, IMAGE), lambda x, y: x - 3 * y),
        case((IMAGE,), lambda x: 1 - x),
        case((IMAGE,), lambda x: (x + torch.arange(6.0).reshape(6, 1, 1)).relu()),
        case((IMAGE, (2, 6, 1, 1)), lambda x, y: x * y.sigmoid()),
        case((IMAGE,), lambda x: x * torch.arange(1.0, 7).reshape(6, 1, 1)),
        case((IMAGE,), lambda x: x * torch.arange(-3.0, 3).reshape(6, 1, 1)),
        case((IMAGE,), lambda x: x / torch.arange(1.0, 7).reshape(6, 1, 1)),
    ],
    "functions": [
        case((IMAGE,), lambda x: x * x),
        case((IMAGE,), F.relu6),
        case((IMAGE,), lambda x: x.clamp(-0.5, 1.5)),
        case((IMAGE,), lambda x: x.clamp(min=0.25)),
        case((IMAGE,), lambda x: x.clamp(2.0, 1.0)),
        case((IMAGE,), F.hardtanh),
        case((IMAGE,), F.hardswish),
        case((IMAGE,), lambda x: x * F.relu6(x + 3) / 6),
        case((IMAGE,), lambda x: x * x.sigmoid()),
        case((IMAGE,), F.gelu),
        case((IMAGE,), F.leaky_relu),
        case((IMAGE,), F.elu),
        case((IMAGE,), F.softplus),
        case((IMAGE,), F.mish),
        case((IMAGE,), lambda x: x.abs().sqrt()),
        case((IMAGE,), lambda x: (x * 0.5).exp()),
        case((IMAGE,), lambda x: F.threshold(x, 0.1, 3.0)),
        case((IMAGE,), F.hardshrink),
        case((IMAGE,), F.logsigmoid),
        case((IMAGE,), lambda x: torch.where((x > 0.3) & (x < 1), x, -x)),
        case((IMAGE, IMAGE), lambda x, y: torch.where(x > 0.3, x, y)),
        case((IMAGE,), lambda x: F.prelu(x, torch.tensor([0.25, 0.0, -0.5, 2.0, 1.0, 0.1]))),
    ],
    "moves": [
        case((IMAGE, IMAGE), lambda x, y: torch.cat([x, y * 0.1, x.relu()], 1)),
        case((IMAGE,), lambda x: x.permute(0, 2, 3, 1).flip(1).reshape(2, -1)[:, 3:50].relu()),
        case(((1, 8, 3, 3),), lambda x: F.pixel_shuffle(x, 2)),
        case((IMAGE,), lambda x: x.roll((1, 2), (2, 3))),
        case((IMAGE,), lambda x: F.pad(x, (1, 2, 0, 1))),
        case((IMAGE,), lambda x: F.pad(x, (1, 2, 0, 1), value=0.7)),
        case((IMAGE,), lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect")),
        case((IMAGE,), lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate")),
        case((IMAGE,), lambda x: F.interpolate(x, scale_factor=2)),
        case((IMAGE,), lambda x: F.interpolate(x, (10, 11))),
        case((ROW,), lambda x: x.relu().argmax(1)),
    ],
    "pools": [
        case((IMAGE,), lambda x: x.mean((2, 3))),
        case((IMAGE,), lambda x: x.mean(-1, keepdim=True)),
        case((IMAGE,), lambda x: x.sum(1)),
        case((IMAGE,), lambda x: x.mean()),
        case((IMAGE, IMAGE), lambda x, y: (x.mean() + y.mean()).clamp(-5, 5)),
        case((IMAGE,), lambda x: x.amax((2, 3))),
        case((IMAGE, IMAGE), torch.maximum),
        case((IMAGE,), lambda x: F.max_pool2d(x, 3, 2, 1)),
        case((IMAGE,), lambda x: F.max_pool2d(x.relu(), 2)),
        case((IMAGE,), lambda x: F.avg_pool2d(x, 3, 2)),
        case((IMAGE,), lambda x: F.avg_pool2d(x, 3, 2, 1, True, False)),
        case((IMAGE,), lambda x: F.avg_pool2d(x, 2, divisor_override=3)),
        case((LINE,), lambda x: F.avg_pool1d(x, 3, 2, 1)),
    ],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_is_rounded_once(family: str) -> None:
    """All functions of a family side by side, each of inputs of its own."""
    program, made, inputs = integer(FAMILIES[family])
    assert_every_step(program, made, inputs)


def test_interpolation_is_rounded_at_the_end() -> None:
    """Weights have 11 bits where another axis follows: each is off by 2^-12 of 255 codes at most."""
    cases = [
        case((IMAGE,), lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
        case((IMAGE,), lambda x: F.interpolate(x, (5, 13), mode="bilinear", align_corners=True).relu()),
        case((IMAGE,), lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
        case((LINE,), lambda x: F.interpolate(x, 30, mode="linear")),
        case((VOLUME,), lambda x: F.interpolate(x, scale_factor=2, mode="trilinear")),
        case((IMAGE,), lambda x: F.adaptive_avg_pool2d(x, (3, 4))),
    ]
    program, made, inputs = integer(cases)
    assert targets(made).count("resize") == 2 + 2 + 2 + 1 + 3 + 2
    assert not {"add", "mul"} & set(targets(made))
    assert_every_step(program, made, inputs, more=0.25)
