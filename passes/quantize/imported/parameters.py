"""What the arguments of a quantize or dequantize operator say, in all their spellings.

    real value = scale · (code - zero),   code in low..high,   one scale, or one an index of `axis`

PyTorch's `quantized_decomposed` has operators for one scale (as numbers or tensors) and for one a channel; torchao's
`quantize_affine` says by blocks which elements share a scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ....ir.ops import arguments
from ....ir.program import Program
from ...fold.constants import Constants, evaluate

NAMESPACES = ("quantized_decomposed", "torchao")
"""PyTorch's own, which torchao's PT2E writes too, and torchao's."""
DYNAMIC = "its scale is computed from the values as the model runs (dynamic quantization)"
WIDE = "its codes are {}..{}, and integers are made of int8 and uint8"


@dataclass(frozen=True)
class Parameters:
    """Scales and zero points (of one element, or one an index of `axis`) and the range of codes."""

    scale: Tensor
    zero: Tensor
    low: int
    high: int
    axis: int | None

    def same(self, other: Parameters) -> bool:
        """Whether both mean the same by a code."""
        return (
            self.axis == other.axis
            and (self.low, self.high) == (other.low, other.high)
            and torch.equal(self.scale, other.scale)
            and torch.equal(self.zero, other.zero)
        )

    def along(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point, shaped to broadcast to values."""
        shape = [-1 if dim == self.axis else 1 for dim in range(values.dim())]
        return self.scale.reshape(shape), self.zero.reshape(shape)

    def values(self, codes: Tensor) -> Tensor:
        """What codes stand for, in float64."""
        scale, zero = self.along(codes)
        return (codes.to(torch.float64) - zero) * scale

    def codes(self, values: Tensor) -> Tensor:
        """Codes of values as PyTorch computes them: in float32, ties to even."""
        scale, zero = self.along(values)
        steps = (values.to(torch.float32) * (1 / scale).to(torch.float32)).round() + zero
        return steps.clamp(self.low, self.high)


def operator_of(node: Any) -> str:
    """The name of a call in one of the namespaces, or of training, without underscores in front; "" for others."""
    target = getattr(node, "target", None)
    if not isinstance(target, torch._ops.OpOverload):
        return ""
    name = str(target._schema.name.partition("::")[2]).lstrip("_")
    return name if target.namespace in NAMESPACES or trains(name) else ""


def trains(name: str) -> bool:
    """Whether an operator rounds to codes as training does, before these are written out."""
    return name.startswith(("fake_quantize", "fused_moving_avg_obs"))


def is_quantized(program: Program) -> bool:
    """Whether a captured program has codes that others gave it."""
    return any(operator_of(node) for node in program.graph.nodes)


def quantizes(node: Any) -> bool:
    """Whether a node makes codes by known parameters."""
    return operator_of(node) in ("quantize_per_tensor", "quantize_per_channel", "quantize_affine")


def dequantizes(node: Any) -> bool:
    """Whether a node makes values of codes."""
    return operator_of(node) in ("dequantize_per_tensor", "dequantize_per_channel", "dequantize_affine")


def parameters_of(node: fx.Node, program: Program, constants: Constants) -> Parameters | str:
    """The parameters of a quantize or dequantize, or why there are none."""
    given = arguments(node)
    names = ("scale", "scales", "zero_point", "zero_points", "quant_min", "quant_max")
    read = {name: _number(given[name], program, constants) for name in names if name in given}
    if any(isinstance(value, str) for value in read.values()):
        return DYNAMIC
    scale: Any = read.get("scale", read.get("scales"))
    zero: Any = read.get("zero_point", read.get("zero_points"))
    zero = torch.zeros_like(scale) if zero is None else zero
    dtype = given.get("dtype") or given.get("output_dtype") if quantizes(node) else _codes_dtype(given)
    if not isinstance(dtype, torch.dtype) or dtype.is_floating_point:
        return f"its codes are {dtype}, which are no integers"
    if bool((zero != zero.round()).any()):
        return "its zero point is no whole number"
    limits = _limits(read, dtype)
    axis = _axis(node, given, scale)
    if isinstance(axis, str):
        return axis
    return Parameters(scale.double().flatten(), zero.double().flatten(), *limits, axis)


def _codes_dtype(given: dict[str, Any]) -> Any:
    return given.get("dtype") or given.get("input_dtype")


def _limits(read: dict[str, Any], dtype: torch.dtype) -> tuple[int, int]:
    """quant_min and quant_max, those of the dtype where they are left out."""
    known = torch.iinfo(dtype)
    low, high = read.get("quant_min"), read.get("quant_max")
    return (known.min if low is None else int(low)), (known.max if high is None else int(high))


def _axis(node: fx.Node, given: dict[str, Any], scale: Tensor) -> int | str | None:
    """The dimension that scales lie along; None for one scale."""
    rank: int = node.meta["val"].dim()
    if "block_size" in given:
        shape = tuple(node.meta["val"].shape)
        several = [dim for dim, block in enumerate(given["block_size"]) if block != shape[dim]]
        if not several:
            return None
        if len(several) > 1 or given["block_size"][several[0]] != 1:
            return f"it has a scale a group of {list(given['block_size'])}: scales are one, or one a channel"
        return int(several[0])
    if "axis" in given:
        return int(given["axis"]) % rank
    return None if scale.numel() == 1 else "it has several scales and no axis"


def _number(value: Any, program: Program, constants: Constants) -> Tensor | str | None:
    """A number or a constant as a tensor; a string for what is computed from the inputs."""
    if value is None:
        return None
    if not isinstance(value, fx.Node):
        return torch.tensor([value], dtype=torch.float64)
    if not constants.holds(value):
        return "computed"
    found: Tensor = evaluate(value, program)
    return found.to(torch.float64)
