"""Operators element by element: between float and codes, sums of two values, tables of functions.

    planish::add(a, b) = Q(DQ(a) + DQ(b))        planish::lookup, curve = Gather(table, code - least code)

Functions are tables in ONNX too, of 256 or 65,536 codes, so that they are exact in every engine.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ...ir.ops import arguments
from ...ir.quantized.pointwise import curve as evaluate
from .products import read_by
from .values import Graph, Inexpressible, dyadic, scale_of, scaled
from .writer import Stored, Value


def quantize(graph: Graph, node: fx.Node) -> Value:
    """QuantizeLinear: float32, ties to even, as here."""
    given = arguments(node)
    real = graph.stored(given["x"])
    name = real.name if real.dtype is torch.float32 else graph.writer.cast(real.name, torch.float32)
    return graph.quantize(node, name, given["zero"], given["low"], given["high"], given["dtype"])


def dequantize(graph: Graph, node: fx.Node) -> Value:
    """DequantizeLinear, or nothing where sums are reals already."""
    given = arguments(node)
    read = read_by(graph, node, given["x"])
    assert read is not None
    return Stored(scaled(graph, given["x"], given["zero"], read), torch.float32)


def requantize(graph: Graph, node: fx.Node) -> Value:
    """QuantizeLinear at the new scale."""
    given = arguments(node)
    read = read_by(graph, node, given["x"])
    assert read is not None
    real = scaled(graph, given["x"], given["x_zero"], read)
    return graph.quantize(node, real, given["zero"], given["low"], given["high"], given["dtype"])


def add(graph: Graph, node: fx.Node) -> Value:
    """Add or Sub of dequantized values, quantized."""
    given = arguments(node)
    shift = graph.constant(given["shift"])
    reals, kinds = [], []
    for side in ("a", "b"):
        multiplier = graph.constant(given[f"{side}_multiplier"])
        negative = side == "b" and bool((multiplier <= 0).all()) and bool((multiplier < 0).any())
        read = dyadic(node, -multiplier if negative else multiplier, shift)
        reals.append(scaled(graph, given[side], given[f"{side}_zero"], read))
        kinds.append(negative)
    made = graph.writer.op("Sub" if kinds[1] else "Add", reals)
    return graph.quantize(node, made, given["zero"], given["low"], given["high"], given["dtype"])


def lookup(graph: Graph, node: fx.Node) -> Value:
    """A table of 256."""
    given = arguments(node)
    return _gathered(graph, node, given["x"], graph.constant(given["table"]))


def curve(graph: Graph, node: fx.Node) -> Value:
    """A table of what the parabolas are at all codes."""
    given = arguments(node)
    codes = torch.arange(-(2**15), 2**15).to(torch.int16)
    rest = [given[name] for name in ("shift", "low", "high", "dtype")]
    return _gathered(graph, node, given["x"], evaluate(codes, graph.constant(given["coefficients"]), *rest))


def _gathered(graph: Graph, node: fx.Node, x: fx.Node, table: Tensor) -> Value:
    source = graph.stored(x)
    if source.dtype not in (torch.uint8, torch.int8, torch.int16):
        raise Inexpressible(f"a table is looked up with {source.dtype}")
    place = graph.writer.cast(source.name, torch.int32)
    least = torch.iinfo(source.dtype).min
    if least:
        place = graph.writer.op("Sub", [place, graph.writer.tensor(torch.tensor(least, dtype=torch.int32), "least")])
    held = graph.writer.tensor(table, "table")
    name = graph.writer.op("Gather", [held, place], graph.writer.unique(node.name), axis=0)
    return Stored(name, table.dtype, scale_of(node) if table.dtype is not torch.bool else 1.0)
