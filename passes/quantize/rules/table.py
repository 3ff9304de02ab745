"""The table: which rule makes the integer form of which operator. What is missing has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import fx

from ....ir.ops import family, integer_name, is_call
from ....ir.scales import moves
from ..builder import Builder, is_floating
from ..forms import Form
from . import attention, axes, choices, norms, pointwise, products, sums
from .moves import POOLS, max_pool, move

aten = torch.ops.aten
ADAPTIVE = (
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
    aten._adaptive_avg_pool3d.default,
)
Rule = Callable[[fx.Node, Builder], Form | str]
"""What stands for a node's value, or the reason why it has no integer form."""

RULES: Mapping[torch._ops.OpOverload, Rule] = {
    aten.convolution.default: products.convolution,
    aten.linear.default: products.linear,
    aten.relu.default: pointwise.bounded,
    aten.relu6.default: pointwise.bounded,
    aten.hardtanh.default: pointwise.bounded,
    aten.clamp.default: pointwise.bounded,
    aten.add.Tensor: pointwise.binary,
    aten.sub.Tensor: pointwise.binary,
    aten.rsub.Tensor: pointwise.binary,
    aten.mul.Tensor: pointwise.binary,
    aten.div.Tensor: pointwise.binary,
    aten.where.self: choices.choice,
    aten._to_copy.default: pointwise.same,
    aten.mean.dim: sums.reduction,
    aten.mean.default: sums.reduction,
    aten.sum.dim_IntList: sums.reduction,
    aten.sum.default: sums.reduction,
    aten.avg_pool1d.default: sums.average_pool,
    aten.avg_pool2d.default: sums.average_pool,
    aten.avg_pool3d.default: sums.average_pool,
    aten.matmul.default: attention.matmul,
    aten._softmax.default: attention.softmax,
    aten.layer_norm.default: norms.row_norm,
    aten.rms_norm.default: norms.row_norm,
    aten.group_norm.default: norms.group_norm,
    **dict.fromkeys(ADAPTIVE, axes.adaptive_average),
    **dict.fromkeys(POOLS, max_pool),
    aten.constant_pad_nd.default: move,
}
"""By operator; what moves and what is pointwise has a rule without standing here."""


def is_boolean(node: fx.Node) -> bool:
    """Whether a node's value is a tensor of truth values."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype is torch.bool


def rule_of(node: fx.Node) -> Rule | None:
    """The rule of a call that reads or makes floating tensors."""
    if node.target in RULES:
        return RULES[node.target]  # type: ignore[index]
    if integer_name(node) == "masked_softmax":
        return attention.softmax
    if integer_name(node) == "rounded":
        return pointwise.rounded
    if moves(node):
        return move
    if family(node) == "pointwise" and is_boolean(node):
        return choices.condition
    if family(node) == "pointwise" and is_floating(node) and not is_call(node, aten.masked_fill.Scalar):
        return pointwise.function
    return None
