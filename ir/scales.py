"""Scale groups: values that share their elements, and so their scale and zero point.

    y = moved(x, ...)  ⇒  scale(y) = scale(x);   a group is a connected component of these equations

An operator moves if every element of its result is one of its operands', or 0, for which every value has a code: views,
gathers, concatenations, pads, maxima. In a group nothing is requantized; it is calibrated as one value.
"""

from __future__ import annotations

from typing import Any

import networkx as nx
import torch
from torch import fx

from .ops import argument, family, is_call

aten = torch.ops.aten
MOVING = frozenset({"view", "rearrange", "concat", "copy", "gather", "triangle"})
"""Families of operators that move."""
CHOOSING: tuple[Any, ...] = (
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.amax.default,
    aten.amin.default,
    aten.maximum.default,
    aten.minimum.default,
    aten.where.self,
    aten.reflection_pad1d.default,
    aten.reflection_pad2d.default,
    aten.reflection_pad3d.default,
    aten.replication_pad1d.default,
    aten.replication_pad2d.default,
    aten.replication_pad3d.default,
    aten._pad_circular.default,
)
"""Others that take each element from an operand."""


def moves(node: fx.Node) -> bool:
    """Whether a call's result holds elements of its operands, and zeros, alone."""
    if family(node) in MOVING or is_call(node, *CHOOSING):
        return True
    if is_call(node, aten.constant_pad_nd.default, aten.masked_fill.Scalar):
        return bool(argument(node, "value") == 0)
    return is_call(node, aten.pad.default) and argument(node, "mode") != "constant"


def scale_groups(graph: fx.Graph) -> list[tuple[fx.Node, ...]]:
    """Every floating value, each in one group; groups and their values in the order of the graph.

    Constants are among them where they are moved (a class token in a concatenation, an embedding's table).
    """
    equal = nx.Graph()
    order = {node: place for place, node in enumerate(graph.nodes)}
    equal.add_nodes_from(node for node in order if _floats(node))
    for node in order:
        if _floats(node) and moves(node):
            equal.add_edges_from((source, node) for source in node.all_input_nodes if _floats(source))
    groups = (tuple(sorted(group, key=order.__getitem__)) for group in nx.connected_components(equal))
    return sorted(groups, key=lambda group: order[group[0]])


def _floats(node: fx.Node) -> bool:
    """Whether a node's value is a tensor of floating-point numbers."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point
