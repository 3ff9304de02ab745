"""Graphs in PyTorch's own Q/DQ operators, written by hand, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch import Tensor, nn

from planish.ir.capture import capture
from planish.ir.interpret import eager
from planish.ir.program import Program
from planish.ir.verify import verify
from planish.passes.manager import run_passes
from planish.passes.pipelines import IMPORTED, INTEGER
from planish.passes.quantize.imported import read_codes
from planish.passes.quantize.integerize import Settings, integerize

qd = torch.ops.quantized_decomposed
U8 = (0, 255, torch.uint8)
S8 = (-128, 127, torch.int8)


def qdq(x: Tensor, scale: float, zero: int, low: int = 0, high: int = 255, dtype: torch.dtype = torch.uint8) -> Tensor:
    """A Q/DQ pair."""
    return qd.dequantize_per_tensor(
        qd.quantize_per_tensor(x, scale, zero, low, high, dtype), scale, zero, low, high, dtype
    )


class Written(nn.Module):
    """A function of an input and this module's weights: codes of int8, and their scales."""

    def __init__(
        self, compute: Callable[[Any, Tensor], Any], channels: tuple[int, int] = (4, 3), taps: int = 3
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = (*channels, taps, taps) if taps else channels
        self.register_buffer("codes", torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8))
        self.register_buffer("scales", torch.rand(channels[0], generator=generator) * 0.01 + 0.002)
        self.register_buffer("zeros", torch.zeros(channels[0], dtype=torch.int64))
        self.register_buffer("bias", torch.randn(channels[0], generator=generator))
        self.compute = compute

    def weight(self) -> Tensor:
        return qd.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, -127, 127, torch.int8)

    def conv(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.conv2d(x, self.weight(), bias, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


IMAGE = (torch.randn(1, 3, 6, 5, generator=torch.Generator().manual_seed(1)),)


def program_of(compute: Callable[[Any, Tensor], Any], x: tuple[Tensor, ...] = IMAGE, **sizes: Any) -> Program:
    captured = capture(Written(compute, **sizes).eval(), x)
    read = read_codes.read_codes(captured)
    torch.testing.assert_close(eager(read, x)[0], eager(captured, x)[0], rtol=1e-6, atol=1e-6)
    return run_passes(read, (*IMPORTED, *INTEGER))


def integers_of(program: Program, ranges: Any = None, settings: Settings | None = None) -> Program:
    made = integerize(program, ranges or {}, settings)
    verify(made)
    return made


def floats_of(program: Program) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if "float" in node.meta]
