"""Softmax and norms of dequantized rows.

    planish::softmax(x) = Q(Softmax(DQ(x)))        planish::layer_norm(x) = Q(LayerNormalization(DQ(x)))

What `ir.quantized.constants` made of scales, gains and eps is undone here: gamma = weight · 2^(F - shift) · scale.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from ...ir.ops import arguments
from ...ir.quantized.fixed import EXP2_FRACTION
from ...ir.quantized.rows import fraction, row_length, spare
from .values import Graph, scale_of, shape_of
from .writer import Value

FAR = -1e30
"""A score that has no share; of a row of nothing else all shares are put to 0."""


def softmax(graph: Graph, node: fx.Node) -> Value:
    """Shares of a row; those that the mask leaves out are 0."""
    given, writer = arguments(node), graph.writer
    x = graph.uniform(given["x"])
    step = math.ldexp(given["multiplier"], -given["shift"] - EXP2_FRACTION) / math.log2(math.e)
    factor = step / float(x.unit)
    name = x.name if abs(factor - 1) <= 1e-7 else writer.times(x.name, torch.tensor(factor, dtype=torch.float64))
    seen = "" if given["mask"] is None else graph.stored(given["mask"]).name
    if seen:
        name = writer.op("Where", [seen, name, writer.floats(FAR)])
    name = writer.op("Softmax", [name], axis=int(given["dim"]))
    if seen:
        name = writer.op("Where", [seen, name, writer.floats(0.0)])
    dtype: torch.dtype = given["dtype"]
    most = min(2 ** int(given["bits"]) - 1, torch.iinfo(dtype).max)
    return graph.quantize(node, name, 0, torch.iinfo(dtype).min, most, dtype)


def layer_norm(graph: Graph, node: fx.Node) -> Value:
    """LayerNormalization over the last dimensions."""
    given, norm = arguments(node), _Norm(graph, node)
    made = graph.writer.op(
        "LayerNormalization", [norm.x, norm.gain, norm.offset], axis=norm.axes[0], epsilon=norm.epsilon
    )
    return graph.quantize(node, made, given["zero"], given["low"], given["high"], given["dtype"])


def rms_norm(graph: Graph, node: fx.Node) -> Value:
    """x / sqrt(mean(x²) + eps) · gain + offset, written out: older engines know no operator for it."""
    given, norm, writer = arguments(node), _Norm(graph, node), graph.writer
    mean = writer.op("ReduceMean", [writer.op("Mul", [norm.x, norm.x]), writer.integers(*norm.axes)], keepdims=1)
    root = writer.op("Sqrt", [writer.op("Add", [mean, writer.floats(norm.epsilon)])])
    unit = writer.op("Div", [norm.x, root])
    made = writer.op("Add", [writer.op("Mul", [unit, norm.gain]), norm.offset])
    return graph.quantize(node, made, given["zero"], given["low"], given["high"], given["dtype"])


class _Norm:
    """What a norm's integers mean in reals."""

    def __init__(self, graph: Graph, node: fx.Node) -> None:
        given: dict[str, Any] = arguments(node)
        value, dims = given["x"].meta["val"], int(given["dims"])
        x, count = graph.uniform(given["x"], given["x_zero"]), row_length(value, dims)
        step = scale_of(node) * 2.0 ** -given["shift"]
        row = shape_of(given["x"])[value.dim() - dims :]
        self.x = x.name
        self.axes = list(range(value.dim() - dims, value.dim()))
        self.gain = _held(graph, given["weight"], step * 2.0 ** fraction(count), row)
        self.offset = _held(graph, given["bias"], step, row)
        self.epsilon = given["eps"] * 2.0 ** -spare(count, value.dtype) * (float(x.unit) / count) ** 2


def _held(graph: Graph, node: fx.Node, step: float, row: list[int]) -> str:
    numbers: Tensor = graph.constant(node).to(torch.float64) * step
    return graph.writer.floats(numbers.expand(row).contiguous())
