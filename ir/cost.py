"""How much a call computes: floating-point operations, by operator and shapes alone.

    flops = 2 * multiply_adds                       convolutions, linear layers, products, attention
    flops = elements * operations for each          everything else that computes; what only moves elements has none

A bias costs nothing: it is what the accumulator starts with. A pointwise function is one operation, however long its
polynomial. The same count serves the ledger of rewrites, call tables and profiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from .ops import arguments, family, integer_name
from .program import Program, Region

aten = torch.ops.aten


def program_flops(program: Program) -> int:
    """Floating-point operations of one run."""
    return sum(node_flops(node, program.regions) for node in program.graph.nodes)


def region_flops(region: Region) -> int:
    """Floating-point operations of one run of a region."""
    return sum(node_flops(node) for node in region.body.nodes)


def node_flops(node: fx.Node, regions: dict[str, Region] | None = None) -> int:
    """Floating-point operations of one node."""
    if node.op == "call_module" and regions is not None:
        return region_flops(regions[str(node.target)])
    if node.op != "call_function":
        return 0
    if made := multiply_adds(node):
        return 2 * made
    count = _EACH.get(node.target, _OF_FAMILY.get(family(node) or "", _per_result(1)))
    return count(node)


def multiply_adds(node: fx.Node) -> int:
    """Products that are added up, of the operators that consist of such; 0 for all others."""
    if node.op != "call_function":
        return 0
    count = _PRODUCTS.get(node.target) or _PRODUCTS_OF_CODES.get(integer_name(node) or "")
    return count(node) if count else 0


def elements(value: Any) -> int:
    """How many elements the first tensor of a value has."""
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return tensors[0].numel() if tensors else 0


_Count = Callable[[fx.Node], int]


def _shape(argument: Any) -> tuple[int, ...]:
    value: torch.Tensor = argument.meta["val"]
    return tuple(value.shape)


def _args(node: fx.Node) -> Sequence[Any]:
    """Arguments by position, however the call spells them."""
    return tuple(arguments(node).values()) if node.kwargs else node.args


def _results(node: fx.Node) -> int:
    return elements(node.meta.get("val"))


def _per_result(operations: int) -> _Count:
    return lambda node: operations * _results(node)


def _per_input(operations: int) -> _Count:
    """Operations for each element of the first operand."""
    return lambda node: operations * (elements(node.all_input_nodes[0].meta["val"]) if node.all_input_nodes else 0)


def _convolution(node: fx.Node) -> int:
    """Every output is a sum over one filter; of a transposed one, every input goes through one."""
    x, weight = _args(node)[:2]
    transposed = node.target in _TRANSPOSED or (node.target is aten.convolution.default and bool(_args(node)[6]))
    return (prod(_shape(x)) if transposed else _results(node)) * prod(_shape(weight)[1:])


def _convolution_of_codes(node: fx.Node) -> int:
    """As of floats; a zero point stands before the stride."""
    x, weight, *_ = node.args
    return (prod(_shape(x)) if node.args[7] else _results(node)) * prod(_shape(weight)[1:])


def _product(place: int) -> _Count:
    """Every result is a sum over the last axis of the operand at `place`."""
    return lambda node: _results(node) * (_shape(_args(node)[place]) or (1,))[-1]


def _attention(node: fx.Node) -> int:
    """Queries times keys, and the weights times values."""
    query, key = _shape(_args(node)[0]), _shape(_args(node)[1])
    return (prod(query) + _results(node)) * key[-2]


def _bilinear(node: fx.Node) -> int:
    return _results(node) * prod(_shape(_args(node)[2])[1:])


def _einsum(node: fx.Node) -> int:
    """Every result is a sum over the labels that it lacks."""
    equation: Any = _args(node)[0]
    operands: Any = _args(node)[1]
    left, arrow, right = equation.replace(" ", "").partition("->")
    extents: dict[str, int] = {}
    for term, operand in zip(left.split(","), operands, strict=True):
        before, dots, after = term.partition("...")
        shape = list(_shape(operand))
        middle = shape[len(before) : len(shape) - len(after)]
        rest = {f"...{i}": size for i, size in enumerate(reversed(middle)) if size > extents.get(f"...{i}", 0)}
        extents |= dict(zip(before, shape, strict=False)) | rest
        extents |= dict(zip(reversed(after), reversed(shape), strict=False)) if dots else {}
    kept = right if arrow else [label for label in extents if left.count(label) == 1 or label[0] == "."]
    return _results(node) * prod(size for label, size in extents.items() if label[0] not in kept and label not in kept)


_TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)

_PRODUCTS: dict[Any, _Count] = {
    **dict.fromkeys((aten.convolution.default, *_TRANSPOSED), _convolution),
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), _convolution),
    **dict.fromkeys((aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding), _convolution),
    **dict.fromkeys((aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default), _product(0)),
    **dict.fromkeys((aten.mv.default, aten.dot.default, aten.vdot.default), _product(0)),
    **dict.fromkeys((aten.addmm.default, aten.addmv.default, aten.baddbmm.default), _product(1)),
    aten.addbmm.default: lambda node: _product(1)(node) * _shape(_args(node)[1])[0],
    aten.bilinear.default: _bilinear,
    aten.einsum.default: _einsum,
    aten.scaled_dot_product_attention.default: _attention,
}

_PRODUCTS_OF_CODES: dict[str, _Count] = {
    "convolution": _convolution_of_codes,
    "linear": _product(0),
    "matmul": _product(0),
}
"""The same for `planish::` operators, by name."""


def _pool(node: fx.Node) -> int:
    """One operation for each element of each window."""
    kernel: Any = _args(node)[1]
    rank = _RANKS[node.target]
    sizes = [kernel] if isinstance(kernel, int) else list(kernel)
    return _results(node) * (prod(sizes) if len(sizes) == rank else sizes[0] ** rank)


_RANKS: dict[Any, int] = {
    **dict.fromkeys((aten.max_pool1d.default, aten.avg_pool1d.default), 1),
    **dict.fromkeys((aten.max_pool2d.default, aten.avg_pool2d.default, aten.max_pool2d_with_indices.default), 2),
    **dict.fromkeys((aten.max_pool3d.default, aten.avg_pool3d.default, aten.max_pool3d_with_indices.default), 3),
}


def _norm(operations: int, parameters: int) -> _Count:
    """So many operations for each element, and one more for a weight and for a bias."""

    def count(node: fx.Node) -> int:
        given = sum(argument is not None for argument in _args(node)[2 : 2 + parameters])
        return (operations + given) * _results(node)

    return count


_EACH: dict[Any, _Count] = {
    **dict.fromkeys(_RANKS, _pool),
    # mean and variance of all, then one subtraction and one multiplication: 2 + 1 + 2
    **dict.fromkeys((aten.layer_norm.default, aten.native_layer_norm.default), _norm(5, 2)),
    aten.group_norm.default: _norm(5, 2),
    aten.rms_norm.default: _norm(3, 1),  # squares and their sum, one multiplication
    **dict.fromkeys((aten._to_copy.default, aten.to.dtype, aten.type_as.default), _per_result(0)),
    **dict.fromkeys((aten.addcmul.default, aten.addcdiv.default), _per_result(2)),
}
"""Operators that differ from their family."""

_OF_FAMILY: dict[str, _Count] = {
    **dict.fromkeys(("copy", "view", "rearrange", "concat", "gather", "scatter", "pad", "triangle"), _per_result(0)),
    **dict.fromkeys(("constant", "effect", "getitem"), _per_result(0)),
    **dict.fromkeys(("pool", "reduce", "cumulative", "sort"), _per_input(1)),
    "normalize": _per_result(2),  # one multiplication and one addition, the statistics being known
    "softmax": _per_input(4),  # maximum, exponential of the difference, sum, quotient
}
"""What is not here counts one operation for each result."""
