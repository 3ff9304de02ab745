"""Networks that torchao quantized (PT2E), end to end: no float inside, bits of the reference, values of PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from one_step import assert_every_step
from torch import Tensor, nn

import planish
from planish.cli import status
from planish.errors import NotImported, OptionError
from planish.ir.capture import capture
from planish.ir.interpret import eager
from planish.passes.manager import run_passes
from planish.passes.pipelines import IMPORTED, INTEGER
from planish.passes.quantize.imported.read_codes import read_codes
from planish.passes.quantize.integerize import integerize

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torchao's own, as it is imported
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

pytestmark = [pytest.mark.filterwarnings("ignore:XNNPACKQuantizer is deprecated"),
              pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao")]  # fmt: skip


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.b, self.nb = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.nb(self.b(self.na(self.a(x)).relu())) + self.short(x)).relu()


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), Block(16, 16, 1),
        Block(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).eval()  # fmt: skip


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


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(768, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 5)
    ).eval()


def images(count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, 16, 16, generator=generator) for _ in range(count)]


def quantizer(kind: str, qat: bool = False) -> Any:
    if kind == "x86":
        return X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config(is_qat=qat))
    per_channel = kind == "xnnpack"
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=per_channel, is_qat=qat))


def converted(model: nn.Module, kind: str, qat: bool = False) -> nn.Module:
    """What PT2E makes of a model, calibrated or trained a little."""
    model.train(qat)
    prepare = prepare_qat_pt2e if qat else prepare_pt2e
    prepared = prepare(torch.export.export(model, (images()[0],)).module(), quantizer(kind, qat))
    for x in images():
        result = prepared(x)
        if qat:
            result.square().sum().backward()
    if qat:
        move_exported_model_to_eval(prepared)
    made: nn.Module = convert_pt2e(prepared)
    return made


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
@pytest.mark.parametrize("kind", ["x86", "xnnpack"])
def test_trained_in_codes(kind: str) -> None:
    """QAT: batch norms are folded, weights have the codes they were trained with."""
    quantized, x = converted(resnet(), kind, qat=True), images(6)[5]
    program = run_passes(read_codes(capture(quantized, (x,))), (*IMPORTED, *INTEGER))
    made = integerize(program, {})
    assert not [node for node in made.graph.nodes if "float" in node.meta]
    assert assert_every_step(program, made, (x,), 0.1) >= 8


def test_compiled_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the module, and from a file through the command line; in float the pairs are computed as they are."""
    quantized, x = converted(resnet(), "xnnpack"), images()[0]
    compiled = planish.compile(quantized, (x,), precision="int8", verify=True)
    fidelity = compiled.report.fidelity
    assert fidelity is not None
    assert fidelity.hops[0].noise == fidelity.hops[-1].noise == 0  # what was read, and compiled code
    (ledger,) = (entry for entry in compiled.report if entry.name == "integerize")
    assert not ledger.refused
    with torch.no_grad():
        wanted = quantized(x)
    assert float((planish.compile(quantized, (x,))(x) - wanted).abs().max()) < 0.02  # ties of a code of the output
    monkeypatch.chdir(tmp_path)
    torch.export.save(torch.export.export(quantized, (x,)), "net.pt2")
    assert status(["compile", "net.pt2", "-o", "net.planish", "--precision", "int8"]) == 0
    assert torch.equal(torch.as_tensor(planish.load("net.planish")(x)), torch.as_tensor(compiled(x)))


def test_what_needs_data_or_other_scales_says_so() -> None:
    with pytest.raises(OptionError, match="needs calibration data"):
        planish.compile(resnet(), (images()[0],), precision="int8")
    config = get_symmetric_quantization_config(is_dynamic=True)
    prepared = prepare_pt2e(torch.export.export(mlp(), (images()[0],)).module(), XNNPACKQuantizer().set_global(config))
    prepared(images()[0])
    with pytest.raises(NotImported, match="dynamic quantization"):
        planish.compile(convert_pt2e(prepared), (images()[0],), precision="int8")
