"""How much a region computes and moves, for call tables and profiles.

flops = 2 * multiply-adds of conv, linear, matmul and attention, else one a result element
bytes = inputs + output, each counted once
"""

from __future__ import annotations

from math import prod

import torch
from torch import fx

from ...ir.program import Region
from .plan import Value, itemsize, physical_shape
from .template import Task


def region_flops(region: Region) -> int:
    """Floating-point operations of one run of `region`."""
    return sum(_node_flops(n) for n in region.body.nodes if n.op == "call_function")


def region_bytes(task: Task, output: Value) -> int:
    """Bytes read and written by one run, each buffer once."""
    return sum(_value_bytes(v) for v in (*task.inputs, output))


def _value_bytes(value: Value) -> int:
    return prod(physical_shape(value.shape, value.layout)) * itemsize(value.dtype)


def _shape(node: object) -> tuple[int, ...]:
    assert isinstance(node, fx.Node)
    return tuple(node.meta["val"].shape)


def _node_flops(node: fx.Node) -> int:
    aten = torch.ops.aten
    out = prod(_shape(node))
    if node.target is aten.convolution.default:
        weight = _shape(node.args[1])
        return 2 * prod(_shape(node.args[0]) if node.args[6] else _shape(node)) * prod(weight[1:])
    if node.target is aten.linear.default:
        return 2 * out * _shape(node.args[1])[-1]
    if node.target is aten.matmul.default:
        return 2 * out * _shape(node.args[0])[-1]
    if node.target is aten.scaled_dot_product_attention.default:
        query, key = _shape(node.args[0]), _shape(node.args[1])
        return 2 * prod(query) * key[-2] + 2 * out * key[-2]
    return out
