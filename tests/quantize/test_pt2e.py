"""Networks that torchao quantized (PT2E), end to end: no float inside, bits of the reference, values of PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from one_step import assert_every_step
from pt2e import converted, images, mlp, resnet
from torch import Tensor, nn
from zoo import find

from planish.ir.capture import capture
from planish.ir.interpret import eager
from planish.passes.manager import run_passes
from planish.passes.pipelines import IMPORTED, INTEGER
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.imported.read_codes import read_codes
from planish.passes.quantize.integerize import integerize
from planish.passes.quantize.observers import MinMax

pytestmark = [pytest.mark.filterwarnings("ignore:XNNPACKQuantizer is deprecated"),
              pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao")]  # fmt: skip


class Mobile(nn.Module):
    """Inverted residuals with a gate: relu6, depthwise convolutions, hardswish, products."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 24, 1)
        self.deep, self.down = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 8, 1)
        self.gate, self.head = nn.Conv2d(24, 24, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.stem(x))
        y = nn.functional.relu6(self.deep(nn.functional.relu6(self.up(x))))
        y = y * nn.functional.hardsigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head((x + self.down(y)).mean((2, 3)))


def mobile() -> nn.Module:
    torch.manual_seed(0)
    return Mobile().eval()


@pytest.mark.parametrize("kind", ["x86", "xnnpack", "one scale"])
@pytest.mark.parametrize(("make", "more"), [(resnet, 0.1), (mobile, 0.5), (mlp, 0.1)])
def test_no_float_is_left_and_every_step_rounds_once(make: Any, more: float, kind: str) -> None:
    """Values without codes wait as sums, or have 16 bits over intervals that are wide behind many layers (`more`)."""
    quantized, x = converted(make(), kind), images(6)[5]
    program = run_passes(read_codes(capture(quantized, (x,))), (*IMPORTED, *INTEGER))
    made = integerize(program, {})
    assert not [node for node in made.graph.nodes if "float" in node.meta]
    calls = [str(node.target) for node in made.graph.nodes if node.op == "call_function"]
    assert (calls.count("planish.quantize.default"), calls.count("planish.dequantize.default")) == (1, 1)
    assert assert_every_step(program, made, (x,), more) >= 5
    with torch.no_grad():
        wanted = quantized(x)
    scale = next((n.args[1] for n in reversed(program.graph.nodes) if str(n.target) == "planish.rounded.default"), 0.0)
    assert (eager(made, (x,))[0] - wanted).abs().max() <= 2 * max(scale, float(wanted.abs().max()) / 128)


@pytest.mark.bars
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large"])
def test_values_read_at_several_widths(name: str) -> None:
    """Gates multiply what is also rounded to bytes; data say the ranges of what the graph leaves open."""
    model, (x,), _ = find(name).small()
    seen = [torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    program = run_passes(read_codes(capture(converted(model, "x86", data=seen), (x,))), (*IMPORTED, *INTEGER))
    for ranges in ({}, calibrate(program, seen, MinMax)):
        made = integerize(program, ranges)
        assert not [node for node in made.graph.nodes if "float" in node.meta]
        for given in (x, *seen[:2]):
            assert assert_every_step(program, made, (given,), 0.1) >= 50


@pytest.mark.bars
@pytest.mark.parametrize("kind", ["x86", "xnnpack"])
def test_trained_in_codes(kind: str) -> None:
    """QAT: batch norms are folded, weights have the codes they were trained with."""
    quantized, x = converted(resnet(), kind, qat=True), images(6)[5]
    program = run_passes(read_codes(capture(quantized, (x,))), (*IMPORTED, *INTEGER))
    made = integerize(program, {})
    assert not [node for node in made.graph.nodes if "float" in node.meta]
    assert assert_every_step(program, made, (x,), 0.1) >= 8
