"""Networks that torchao quantized (PT2E), end to end: no float inside, bits of the reference, values of PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from one_step import assert_every_step
from pt2e import converted, images, mlp, resnet
from torch import Tensor, nn
from zoo import find

from planish.errors import NoIntegerForm, NotImported
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


class Affine(nn.Module):
    """torchao's own operators: blocks say which elements share a scale."""

    def __init__(self, dtype: torch.dtype = torch.uint8, block: tuple[int, ...] = (1, 3, 3, 3)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.dtype, self.block = dtype, list(block)
        counts = [extent // step for extent, step in zip((4, 3, 3, 3), block, strict=True)]
        self.register_buffer("codes", torch.randint(-127, 128, (4, 3, 3, 3), generator=generator, dtype=torch.int8))
        self.register_buffer("scales", (torch.rand(counts, generator=generator) * 0.01 + 0.002).squeeze())
        self.register_buffer("scale", torch.tensor([0.02]))
        self.register_buffer("zero", torch.tensor([120], dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.torchao
        weight = ops.dequantize_affine(self.codes, self.block, self.scales, None, torch.int8, -127, 127)
        if self.dtype is torch.float8_e4m3fn:
            x = ops.dequantize_affine_float8_non_decomposed(
                ops.quantize_affine_float8_non_decomposed(x, self.scale, self.dtype), self.scale, torch.float32
            )
        else:
            given = (list(x.shape), self.scale, self.zero, self.dtype, 0, 255)
            x = ops.dequantize_affine(ops.quantize_affine(x, *given), *given)
        return nn.functional.conv2d(x, weight, padding=1)


def test_operators_of_torchao_itself() -> None:
    x = images()[0]
    captured = capture(Affine().eval(), (x,))
    program = run_passes(read_codes(captured), (*IMPORTED, *INTEGER))
    made = integerize(program, {})
    (first, *_) = (node for node in made.graph.nodes if node.op == "call_function")
    assert first.args[1:3] == (pytest.approx(0.02), 120)
    (codes,) = (tensor for name, tensor in made.weights.items() if name.endswith(".codes"))
    assert torch.equal(codes, Affine().codes)
    assert_every_step(program, made, (x,))


def test_what_of_torchao_itself_is_refused() -> None:
    """Floats of 8 bits; and a scale a group, which weights have in float alone."""
    x = images()[0]
    with pytest.raises(NotImported, match=r"quantize_affine_float8_non_decomposed\.default: its codes are floats"):
        read_codes(capture(Affine(torch.float8_e4m3fn).eval(), (x,)))
    model = Affine(block=(1, 1, 3, 3)).eval()
    read = read_codes(capture(model, (x,)))
    torch.testing.assert_close(eager(read, (x,))[0], model(x))
    with pytest.raises(NoIntegerForm, match=r"convolution[^:]*: the graph gives no codes of 8 bits to its weights"):
        integerize(run_passes(read, (*IMPORTED, *INTEGER)), {})


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
