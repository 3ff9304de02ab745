"""Operators of layers that stay in float, and of masks and places: ATen's as ONNX's.

relu(x) = Relu(x)        x + 2 = Add(x, 2)        x >= y = GreaterOrEqual(x, y)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from ...ir.ops import arguments
from .products import batched
from .values import Graph, Inexpressible, shape_of
from .writer import Stored

aten = torch.ops.aten
Rule = Callable[[Graph, fx.Node], Stored]


def same(kind: str, **attributes: Any) -> Rule:
    """An operator of one value and perhaps another, or a number; their dtypes are made the wider one."""

    def rule(graph: Graph, node: fx.Node) -> Stored:
        operands = [arg for arg in node.args[:2] if isinstance(arg, fx.Node | int | float)]
        if node.kwargs or any(arg is not None for arg in node.args[len(operands) :]):
            raise Inexpressible("planish writes it in ONNX without further arguments alone")
        dtype = _common(graph, operands)
        made = graph.writer.op(kind, [_operand(graph, arg, dtype) for arg in operands], **attributes)
        return Stored(made, node.meta["val"].dtype)

    return rule


def truths(kind: str) -> Rule:
    """An operator of truth values."""

    def rule(graph: Graph, node: fx.Node) -> Stored:
        names = [_operand(graph, arg, torch.bool) for arg in node.args]
        return Stored(graph.writer.op(kind, names), torch.bool)

    return rule


def unequal(graph: Graph, node: fx.Node) -> Stored:
    """x != y."""
    dtype = _common(graph, list(node.args))
    equal = graph.writer.op("Equal", [_operand(graph, arg, dtype) for arg in node.args])
    return Stored(graph.writer.op("Not", [equal]), torch.bool)


def cast(graph: Graph, node: fx.Node) -> Stored:
    """Another dtype."""
    value, dtype = graph.stored(node.all_input_nodes[0]), node.meta["val"].dtype
    return Stored(value.name if value.dtype is dtype else graph.writer.cast(value.name, dtype), dtype)


def convolution(graph: Graph, node: fx.Node) -> Stored:
    """A layer in float."""
    given = arguments(node)
    rank = len(given["stride"])
    attributes = {"strides": list(given["stride"]), "pads": [*given["padding"]] * 2, "group": int(given["groups"])}
    attributes["dilations"] = list(given["dilation"])
    if given["transposed"]:
        attributes["output_padding"] = list(given["output_padding"])
    names = [graph.stored(given[name]).name for name in ("input", "weight", "bias") if given[name] is not None]
    kind = "ConvTranspose" if given["transposed"] else "Conv"
    return _real(batched(graph, len(shape_of(node)) - rank - 1, names, kind, attributes))


def linear(graph: Graph, node: fx.Node) -> Stored:
    """A layer in float."""
    given, writer = arguments(node), graph.writer
    turned = writer.op("Transpose", [graph.stored(given["weight"]).name], perm=[1, 0])
    made = writer.op("MatMul", [graph.stored(given["input"]).name, turned])
    return _real(made if given["bias"] is None else writer.op("Add", [made, graph.stored(given["bias"]).name]))


def mean(graph: Graph, node: fx.Node) -> Stored:
    """Over dimensions."""
    given = arguments(node)
    axes = graph.writer.integers(*(given["dim"] or range(len(shape_of(given["self"])))))
    name = graph.stored(given["self"]).name
    return _real(graph.writer.op("ReduceMean", [name, axes], keepdims=int(given["keepdim"])))


def softmax(graph: Graph, node: fx.Node) -> Stored:
    """Of floats."""
    given = arguments(node)
    return _real(graph.writer.op("Softmax", [graph.stored(given["self"]).name], axis=int(given["dim"])))


def silu(graph: Graph, node: fx.Node) -> Stored:
    """x · sigmoid(x)."""
    name = graph.stored(node.all_input_nodes[0]).name
    return _real(graph.writer.op("Mul", [name, graph.writer.op("Sigmoid", [name])]))


def gelu(graph: Graph, node: fx.Node) -> Stored:
    """Both kinds."""
    name = graph.stored(node.all_input_nodes[0]).name
    return _real(graph.writer.op("Gelu", [name], approximate=arguments(node)["approximate"]))


def layer_norm(graph: Graph, node: fx.Node) -> Stored:
    """Of floats."""
    given, writer = arguments(node), graph.writer
    row = list(given["normalized_shape"])
    gain = writer.floats(torch.ones(row)) if given["weight"] is None else graph.stored(given["weight"]).name
    held = [graph.stored(given["input"]).name, gain]
    held += [] if given["bias"] is None else [graph.stored(given["bias"]).name]
    return _real(writer.op("LayerNormalization", held, axis=-len(row), epsilon=float(given["eps"])))


def some(graph: Graph, node: fx.Node) -> Stored:
    """any(x, dim)."""
    given, writer = arguments(node), graph.writer
    numbers = writer.cast(graph.stored(given["self"]).name, torch.int32)
    made = writer.op("ReduceMax", [numbers, writer.integers(given["dim"])], keepdims=int(given["keepdim"]))
    return Stored(writer.cast(made, torch.bool), torch.bool)


def _real(name: str) -> Stored:
    return Stored(name, torch.float32)


def _common(graph: Graph, operands: list[Any]) -> torch.dtype:
    """The dtype that PyTorch computes in."""
    held = [graph.stored(arg).dtype for arg in operands if isinstance(arg, fx.Node)]
    dtype = held[0] if len(held) == 1 else torch.promote_types(*held)
    numbers = [arg for arg in operands if not isinstance(arg, fx.Node)]
    return torch.float32 if any(isinstance(n, float) for n in numbers) and not dtype.is_floating_point else dtype


def _operand(graph: Graph, arg: Any, dtype: torch.dtype) -> str:
    if not isinstance(arg, fx.Node):
        return graph.writer.tensor(torch.tensor(arg, dtype=dtype), "number")
    value = graph.stored(arg)
    return value.name if value.dtype is dtype else graph.writer.cast(value.name, dtype)


FLOATS: Mapping[Any, Rule] = {
    aten.add.Tensor: same("Add"),
    aten.sub.Tensor: same("Sub"),
    aten.mul.Tensor: same("Mul"),
    aten.div.Tensor: same("Div"),
    aten.neg.default: same("Neg"),
    aten.abs.default: same("Abs"),
    aten.exp.default: same("Exp"),
    aten.log.default: same("Log"),
    aten.sqrt.default: same("Sqrt"),
    aten.reciprocal.default: same("Reciprocal"),
    aten.erf.default: same("Erf"),
    aten.sin.default: same("Sin"),
    aten.cos.default: same("Cos"),
    aten.tanh.default: same("Tanh"),
    aten.sigmoid.default: same("Sigmoid"),
    aten.relu.default: same("Relu"),
    aten.hardsigmoid.default: same("HardSigmoid", alpha=1 / 6, beta=0.5),
    aten.hardswish.default: same("HardSwish"),
    aten.silu.default: silu,
    aten.gelu.default: gelu,
    aten._softmax.default: softmax,
    aten.mean.dim: mean,
    aten.convolution.default: convolution,
    aten.linear.default: linear,
    aten.matmul.default: same("MatMul"),
    aten.layer_norm.default: layer_norm,
    aten.eq.Scalar: same("Equal"),
    aten.eq.Tensor: same("Equal"),
    aten.ne.Scalar: unequal,
    aten.ne.Tensor: unequal,
    aten.gt.Scalar: same("Greater"),
    aten.gt.Tensor: same("Greater"),
    aten.ge.Scalar: same("GreaterOrEqual"),
    aten.ge.Tensor: same("GreaterOrEqual"),
    aten.lt.Scalar: same("Less"),
    aten.lt.Tensor: same("Less"),
    aten.le.Scalar: same("LessOrEqual"),
    aten.le.Tensor: same("LessOrEqual"),
    aten.logical_not.default: truths("Not"),
    aten.bitwise_not.default: truths("Not"),
    aten.logical_and.default: truths("And"),
    aten.bitwise_and.Tensor: truths("And"),
    aten.logical_or.default: truths("Or"),
    aten.bitwise_or.Tensor: truths("Or"),
    aten.any.dim: some,
    aten._to_copy.default: cast,
}
"""By operator."""
