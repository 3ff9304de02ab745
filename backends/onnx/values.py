"""Reads values of an integer program as ONNX tensors, and makes codes of reals.

scaled:  scale · ratio · (x - zero)  as a float tensor        codes:  QuantizeLinear(clip(real))

What a requantization multiplies by is scale(x) / scale(y) as a dyadic number. Said in reals it is nothing at all: the
scales of the two values are already so. Only where they differ (a mean's 1 / n, a softmax's 1 / sqrt(d)) a Mul stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ...ir.ops import arguments, integer_name
from ...ir.program import Program
from .writer import Stored, Sum, Value, Writer

CODES = (torch.uint8, torch.int8, torch.int16, torch.int32)
"""What may stand for a real."""


class Inexpressible(Exception):
    """Why ONNX cannot say what an operator computes, in one clause."""


@dataclass
class Graph:
    """An ONNX graph under construction, and what stands for each node of the program."""

    program: Program
    writer: Writer = field(default_factory=Writer)
    values: dict[fx.Node, Value] = field(default_factory=dict)

    def stored(self, node: fx.Node) -> Stored:
        """A node's elements as they are; sums are rounded to whole numbers."""
        value = self.values[node]
        if isinstance(value, Sum):
            whole = self.writer.op("Round", [self.writer.times(value.name, 1 / value.unit)])
            return Stored(self.writer.cast(whole, torch.int32), torch.int32)
        return value

    def constant(self, node: Any) -> Tensor:
        """The elements of a constant of the program."""
        if node.op != "get_attr":
            raise Inexpressible(f"its argument {node.name} is no constant")
        return self.program.weights[str(node.target)]

    def real(self, node: fx.Node, zero: int = 0) -> Sum:
        """The float tensor that stands for (codes - zero), with its unit."""
        value = self.values[node]
        if isinstance(value, Sum):
            return value
        return Sum(self.writer.dequantize(value, zero), torch.tensor(value.scale, dtype=torch.float64))

    def uniform(self, node: fx.Node, zero: int = 0) -> Sum:
        """The same with one unit for all elements: they are about to be mixed."""
        value = self.real(node, zero)
        if value.unit.numel() == 1:
            return Sum(value.name, value.unit.reshape(()))
        unit = value.unit.max()
        return Sum(self.writer.times(value.name, unit / value.unit), unit)

    def quantize(self, node: fx.Node, real: str, zero: int, low: int, high: int, dtype: torch.dtype) -> Stored:
        """Codes of a float tensor at the scale of the node's own codes; bounds that the dtype has need no clip."""
        writer, scale, limits = self.writer, scale_of(node), torch.iinfo(dtype)
        if low == zero > limits.min and high == limits.max:
            real = writer.op("Relu", [real])
        elif low > limits.min or high < limits.max:
            ends = [writer.floats(scale * (bound - zero)) for bound in (low, high)]
            real = writer.op("Clip", [real, *ends])
        zeros = writer.tensor(torch.tensor(zero, dtype=dtype), "zero")
        made = writer.op("QuantizeLinear", [real, writer.floats(scale), zeros], writer.unique(node.name))
        return Stored(made, dtype, scale)


@dataclass(frozen=True)
class Read:
    """How an integer operator reads sums: times `ratio` they are codes of the scale of `node`.

    `exact(real)` says whether the reals a unit stands for are these already, up to the rounding of a dyadic number.
    """

    node: fx.Node
    ratio: Tensor
    exact: Callable[[Tensor], bool]

    @property
    def unit(self) -> Tensor:
        """What one step of the sums is worth to this reader."""
        return self.ratio * scale_of(self.node)


def scaled(graph: Graph, node: fx.Node, zero: int, read: Read) -> str:
    """scale · ratio · (x - zero)."""
    value = graph.real(node, zero)
    if read.exact(value.unit):
        return value.name
    return graph.writer.times(value.name, read.unit / value.unit)


def dyadic(node: fx.Node, multiplier: Tensor, shift: Tensor) -> Read:
    """Reads of a multiplier and a shift; the unit is the same if the multiplier is what rounding makes of it."""
    whole, scale = multiplier.to(torch.float64), scale_of(node)
    power = torch.exp2(shift.to(torch.float64))

    def exact(unit: Tensor) -> bool:
        return bool(((unit / scale * power - whole).abs() <= 1).all())

    return Read(node, whole / power, exact)


def near(node: fx.Node, ratio: Tensor) -> Read:
    """Reads of a ratio in floats."""
    return Read(node, ratio, lambda unit: bool(((unit / scale_of(node) / ratio - 1).abs() <= 1e-6).all()))


def scale_of(node: Any) -> float:
    """What a step of a node's codes is worth: what `integerize` says, else what follows from its operator, else 1."""
    if "quant" in node.meta:
        return float(node.meta["quant"].scale)
    if node.op != "call_function":
        return 1.0
    name = integer_name(node)
    if name == "quantize":
        return float(arguments(node)["scale"])
    if name == "softmax":
        return float(2.0 ** -arguments(node)["bits"])
    if name in (None, "max_pool"):
        moved = [source for source in node.all_input_nodes if has_codes(source)]
        return scale_of(moved[0]) if moved else 1.0
    return 1.0


def has_codes(node: fx.Node) -> bool:
    """Whether a node's value is a tensor of codes or sums."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype in CODES


def shape_of(node: Any) -> list[int]:
    """A node's extents."""
    return [int(extent) for extent in node.meta["val"].shape]
