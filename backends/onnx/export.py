"""Integer programs as ONNX models: quantized and dequantized values around operators of reals ("QDQ").

    program(x)  ≈  onnxruntime(model_of(program))(x)        each value within one code of what is computed from the same

Scales, zero points and the integers of weights and biases are the program's own. Engines that take such graphs fuse
them into integer kernels; they round ties to even, and multiply sums by floats.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import onnx
from torch import fx

from ...errors import NoOnnxForm, OutputError, UnsupportedOp
from ...ir.ops import integer_name
from ...ir.program import Program
from . import pointwise, products, rows
from .floats import FLOATS
from .moves import MOVES, by_places, max_pool
from .values import Graph, Inexpressible, scale_of, shape_of
from .writer import TYPES, Stored, Value

OPSET = 21
"""The first in which codes may have 16 bits."""
LARGEST = 2**31 - 2**20
"""Bytes that one protobuf message may have, less what the nodes take."""
Rule = Callable[[Graph, fx.Node], Value]

INTEGERS: Mapping[str, Rule] = {
    "quantize": pointwise.quantize,
    "dequantize": pointwise.dequantize,
    "requantize": pointwise.requantize,
    "convolution": products.convolution,
    "linear": products.linear,
    "matmul": products.matmul,
    "mul": products.mul,
    "add": pointwise.add,
    "sum": products.reduce_sum,
    "sum_pool": products.sum_pool,
    "max_pool": max_pool,
    "resize": products.resize,
    "lookup": pointwise.lookup,
    "curve": pointwise.curve,
    "softmax": rows.softmax,
    "layer_norm": rows.layer_norm,
    "rms_norm": rows.rms_norm,
}
"""By the operator's name: all there are."""


def model_of(program: Program) -> onnx.ModelProto:
    """The ONNX model of a program at stage QUANTIZED. Raises NoOnnxForm."""
    graph, refused = Graph(program), []
    for node in program.graph.nodes:
        graph.writer.begin(node)
        try:
            if node.op in ("placeholder", "get_attr"):
                graph.values[node] = _given(graph, node)
            elif node.op == "call_function":
                graph.values[node] = _rule(node)(graph, node)
        except Inexpressible as error:
            refused.append(_unsupported(node, str(error)))
            graph.values[node] = Stored(node.name, node.meta["val"].dtype)  # what reads it may be refused, too
    if refused:
        raise NoOnnxForm(refused)
    return _model(graph)


def write(program: Program, path: str | os.PathLike[str], write_whole: Callable[..., None]) -> None:
    """Write the model's file, whole or not at all, by `write_whole(path, fill)`."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.weights.values())
    if size > LARGEST:
        raise OutputError(
            f"{path}: the model's constants take {size} bytes, and an ONNX file holds less than 2 GB.",
            "Export its parts one by one.",
        )
    data = model_of(program).SerializeToString()

    def fill(file: BinaryIO) -> None:
        file.write(data)

    write_whole(path, fill)


def _given(graph: Graph, node: fx.Node) -> Value:
    """An input by its name in the signature, or a constant, which is written if something reads it as it is."""
    value = node.meta["val"]
    if node.op == "get_attr":
        tensor = graph.constant(node)
        return Stored(graph.writer.tensor(tensor, "constant"), tensor.dtype, scale_of(node))
    holders = [n for n in graph.program.graph.nodes if n.op == "placeholder"]
    spec = graph.program.signature.inputs[holders.index(node)]
    graph.writer.unique(spec.name)
    return Stored(spec.name, value.dtype, scale_of(node))


def _rule(node: fx.Node) -> Rule:
    name = integer_name(node)
    if name is not None:
        if name not in INTEGERS:
            raise Inexpressible("planish writes it in no ONNX operator")
        return INTEGERS[name]
    return MOVES.get(node.target) or FLOATS.get(node.target) or by_places


def _model(graph: Graph) -> onnx.ModelProto:
    """The graph with its inputs and outputs, checked by ONNX."""
    program, writer = graph.program, graph.writer
    results: Any = program.graph.output_node().args[0]
    outputs = []
    for node, spec in zip(results, program.signature.outputs, strict=True):
        value = graph.stored(node)
        name = writer.unique(spec.name)
        writer.op("Identity", [value.name], name)
        outputs.append(onnx.helper.make_tensor_value_info(name, TYPES[value.dtype], shape_of(node)))
    holders = [node for node in program.graph.nodes if node.op == "placeholder"]
    inputs = [
        onnx.helper.make_tensor_value_info(graph.stored(node).name, TYPES[node.meta["val"].dtype], shape_of(node))
        for node in holders
    ]
    read = {name for node in writer.nodes for name in node.input}
    constants = [tensor for name, tensor in writer.constants.items() if name in read]
    made = onnx.helper.make_graph(writer.nodes, program.name, inputs, outputs, constants)
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(made, producer_name="planish", opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


def _unsupported(node: fx.Node, reason: str) -> UnsupportedOp:
    origins = node.meta.get("origins", ())
    layer = next((origin.layer for origin in origins if origin.layer), "")
    source = next((origin.source for origin in origins if origin.source), "")
    return UnsupportedOp(str(node.target), reason, layer, source)
