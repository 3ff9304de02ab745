"""What torchao's PT2E makes of small networks."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torchao's own, as it is imported
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config


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


def converted(model: nn.Module, kind: str, qat: bool = False, data: list[Tensor] | None = None) -> nn.Module:
    """What PT2E makes of a model, calibrated or trained a little."""
    model.train(qat)
    data = images() if data is None else data
    prepare = prepare_qat_pt2e if qat else prepare_pt2e
    prepared = prepare(torch.export.export(model, (data[0],)).module(), quantizer(kind, qat))
    for x in data:
        result = prepared(x)
        if qat:
            result.square().sum().backward()
    if qat:
        move_exported_model_to_eval(prepared)
    made: nn.Module = convert_pt2e(prepared)
    return made
