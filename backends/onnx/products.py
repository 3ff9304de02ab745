"""Products and sums of codes: Conv, Gemm, MatMul, Mul, pools and interpolations of dequantized values.

    planish::convolution(x, w, b, z) · unit  =  Conv(DQ(x, scale, z), DQ(w, scales), DQ(b, scale · scales))

A product's weights have the scales that its reader's multipliers imply: scales[o] = unit[o] / scale, which are those
that they were quantized with. Where a reader's ratio is not one a channel, weights have the scale 1 and the reader
multiplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from ...ir.ops import arguments, integer_name
from .values import Graph, Inexpressible, Read, dyadic, near, shape_of
from .writer import Sum, Value


def convolution(graph: Graph, node: fx.Node) -> Value:
    """Conv or ConvTranspose, with int8 weights a channel and an int32 bias."""
    given = arguments(node)
    turned, groups, rank = bool(given["transposed"]), int(given["groups"]), len(given["stride"])
    channel = len(shape_of(node)) - rank - 1
    unit, scales = _units(graph, node, given, channel, turned and groups > 1)
    operands = _operands(graph, given, scales, 1 if turned else 0)
    attributes = {"strides": list(given["stride"]), "pads": [*given["padding"]] * 2, "group": groups}
    attributes["dilations"] = list(given["dilation"])
    if turned:
        attributes["output_padding"] = list(given["output_padding"])
    kind = "ConvTranspose" if turned else "Conv"
    return Sum(batched(graph, channel, operands, kind, attributes), unit)


def linear(graph: Graph, node: fx.Node) -> Value:
    """Gemm of a matrix, MatMul and Add of more dimensions."""
    given = arguments(node)
    unit, scales = _units(graph, node, given, len(shape_of(node)) - 1, False)
    if len(shape_of(given["x"])) == 2:
        return Sum(graph.writer.op("Gemm", _operands(graph, given, scales, 0), transB=1), unit)
    x, weight, *bias = _operands(graph, given, scales, 1, graph.constant(given["weight"]).T)
    made = graph.writer.op("MatMul", [x, weight])
    return Sum(graph.writer.op("Add", [made, *bias]) if bias else made, unit)


def matmul(graph: Graph, node: fx.Node) -> Value:
    """A product of two activations."""
    given = arguments(node)
    a, b = graph.uniform(given["a"], given["a_zero"]), graph.uniform(given["b"])
    return Sum(graph.writer.op("MatMul", [a.name, b.name]), a.unit * b.unit)


def mul(graph: Graph, node: fx.Node) -> Value:
    """A product element by element."""
    given = arguments(node)
    a, b = graph.real(given["a"], given["a_zero"]), graph.real(given["b"], given["b_zero"])
    return Sum(graph.writer.op("Mul", [a.name, b.name]), a.unit * b.unit)


def reduce_sum(graph: Graph, node: fx.Node) -> Value:
    """A mean, whose unit has the count in it."""
    given = arguments(node)
    x, extents = graph.uniform(given["x"], given["x_zero"]), shape_of(given["x"])
    axes = [dim % len(extents) for dim in given["dim"]] or list(range(len(extents)))
    count = int(np.prod([extents[axis] for axis in axes], dtype=np.int64))
    held = [x.name, graph.writer.integers(*axes)]
    return Sum(graph.writer.op("ReduceMean", held, keepdims=int(given["keepdim"])), x.unit / count)


def sum_pool(graph: Graph, node: fx.Node) -> Value:
    """An average pool that counts what it pads."""
    given = arguments(node)
    x, kernel = graph.uniform(given["x"], given["x_zero"]), list(given["kernel"])
    attributes = {**windows(node, given), "count_include_pad": 1}
    channel = len(shape_of(node)) - len(kernel) - 1
    made = batched(graph, channel, [x.name], "AveragePool", attributes)
    return Sum(made, x.unit / int(np.prod(kernel)))


def resize(graph: Graph, node: fx.Node) -> Value:
    """Weighted sums of neighbours along one dimension, each gathered."""
    given, writer = arguments(node), graph.writer
    places, weights = graph.constant(given["places"]), graph.constant(given["weights"]).to(torch.float64)
    x, dim = graph.uniform(given["x"], given["x_zero"]), int(given["dim"])
    whole = float(weights.sum(0).abs().max()) or 1.0
    shape = [-1, *[1] * (len(shape_of(given["x"])) - 1 - dim)]
    total = ""
    for where, weight in zip(places, weights, strict=True):
        part = writer.op("Gather", [x.name, writer.tensor(where, "places")], axis=dim)
        part = writer.times(part, (weight / whole).reshape(shape))
        total = writer.op("Add", [total, part]) if total else part
    return Sum(total, x.unit / whole)


def windows(node: fx.Node, given: dict[str, Any]) -> dict[str, list[int]]:
    """A pool's attributes, with what its last windows need beyond the image as padding: ONNX counts it otherwise."""
    kernel, stride, before = (list(given[name]) for name in ("kernel", "stride", "padding"))
    dilation = list(given.get("dilation", [1] * len(kernel)))
    extents = shape_of(given["x"])[-len(kernel) :]
    count = shape_of(node)[-len(kernel) :]
    after = [
        max((n - 1) * s + d * (k - 1) + 1 - extent - pad, 0)
        for n, s, d, k, extent, pad in zip(count, stride, dilation, kernel, extents, before, strict=True)
    ]
    made = {"kernel_shape": kernel, "strides": stride, "pads": [*before, *after]}
    return made if set(dilation) == {1} else {**made, "dilations": dilation}


def batched(graph: Graph, channel: int, operands: Sequence[str], kind: str, attributes: dict[str, Any]) -> str:
    """The operator on images with a batch, which ONNX demands."""
    writer = graph.writer
    if channel:
        return writer.op(kind, operands, **attributes)
    alone = writer.op("Unsqueeze", [operands[0], writer.integers(0)])
    return writer.op("Squeeze", [writer.op(kind, [alone, *operands[1:]], **attributes), writer.integers(0)])


def _operands(
    graph: Graph, given: dict[str, Any], scales: Tensor, axis: int, weight: Tensor | None = None
) -> list[str]:
    """Dequantized x, weight and bias."""
    x = graph.uniform(given["x"], given["x_zero"])
    held = graph.constant(given["weight"]) if weight is None else weight
    names = [x.name, graph.writer.dequantize_channels(held, scales, axis, "weight")]
    if given["bias"] is not None:
        bias = graph.constant(given["bias"]).to(torch.int32)
        names.append(graph.writer.dequantize_channels(bias, scales * x.unit, 0, "bias"))
    return names


def _units(graph: Graph, node: fx.Node, given: dict[str, Any], channel: int, alike: bool) -> tuple[Tensor, Tensor]:
    """(unit of the sums, scales of the weights): what the first reader makes of them, if that is one a channel."""
    if given["weight"].op != "get_attr" or (given["bias"] is not None and given["bias"].op != "get_attr"):
        raise Inexpressible("its weights vary, and only constants have one scale a channel in ONNX")
    x = graph.uniform(given["x"], given["x_zero"])
    shape = shape_of(node)
    for reader in node.users:
        read = read_by(graph, reader, node)
        wanted = None if read is None else _by_channel(read.unit.abs(), len(shape), channel)
        if wanted is not None and not (alike and wanted.numel() > 1):
            ending = [1] * (len(shape) - 1 - channel)
            return wanted.reshape([-1, *ending] if wanted.numel() > 1 else []), wanted / x.unit
    one = torch.ones((), dtype=torch.float64)
    return x.unit, one


def _by_channel(unit: Tensor, rank: int, channel: int) -> Tensor | None:
    """One number, or one a channel; None if it varies along anything else, or is no scale."""
    full = unit.reshape([1] * (rank - unit.dim()) + list(unit.shape)) if unit.dim() <= rank else unit
    if full.numel() not in (1, full.shape[channel]) or not bool((full > 1e-30).all()):
        return None
    return full.flatten() if full.numel() > 1 else full.reshape(())


def read_by(graph: Graph, reader: fx.Node, source: fx.Node) -> Read | None:
    """How an operator reads a value; None if it needs no scale of it."""
    name = integer_name(reader)
    given = arguments(reader) if name else {}
    if name == "requantize":
        return dyadic(reader, graph.constant(given["multiplier"]), graph.constant(given["shift"]))
    if name == "add":
        side = "a_multiplier" if given["a"] is source else "b_multiplier"
        return dyadic(reader, graph.constant(given[side]), graph.constant(given["shift"]))
    if name == "dequantize":
        return near(reader, graph.constant(given["scale"]).to(torch.float64))
    return None
