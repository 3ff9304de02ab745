"""Which kind of kernel an op anchors, and what may be fused before and after it. Data, one row a family.

    region = prologue -> anchor -> epilogue

An op that no row names, and that is neither pointwise nor a view, anchors a region of its own ("other").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ...ir import ops

aten = torch.ops.aten


@dataclass(frozen=True)
class Family:
    """What the regions of one kind may hold beside their anchor.

    `operands`: positions of anchor arguments that may have a prologue (None: all). `views`, `pointwise`: what
    that prologue is made of; `rereads`: the kernel reads its input several times, so costly pointwise ops stay
    out. `epilogue`: pointwise ops may follow; `views_after`: bijective views too, `by_rows` only those that
    leave neighbours on the last axis neighbours, because the kernel stores along it.
    """

    kind: str
    operands: tuple[int, ...] | None = ()
    views: frozenset[Any] = frozenset()
    pointwise: bool = False
    rereads: bool = False
    epilogue: bool = True
    views_after: bool = False
    by_rows: bool = False


BIJECTIVE = frozenset({aten.reshape.default, aten.permute.default, aten.flip.default, aten.roll.default})
VIEWS = BIJECTIVE | {aten.slice.Tensor, aten.expand.default}
"""Ops that only say which element of their source an element is: free inside a kernel that maps indices."""

CONV = Family("conv")
LINEAR = Family("linear", (0,), VIEWS, views_after=True, by_rows=True)
MATMUL = Family("matmul", (0, 1), VIEWS, views_after=True, by_rows=True)
ATTENTION = Family("attention", (0, 1, 2), VIEWS, views_after=True, by_rows=True)
POOL = Family("pool")
REDUCE = Family("reduce", (0,), VIEWS, pointwise=True, views_after=True)
NORMALIZE = Family("normalize", (0,), VIEWS, pointwise=True, rereads=True, views_after=True)
SOFTMAX = Family("softmax", (0,), VIEWS, pointwise=True, rereads=True, views_after=True)
CONCAT = Family("concat")
EMBEDDING = Family("embedding")
RESIZE = Family("other")
OTHER = Family("other", epilogue=False)
POINTWISE = Family("pointwise", None, VIEWS, pointwise=True, epilogue=False)

ANCHORS: Mapping[Any, Family] = {
    aten.convolution.default: CONV,
    aten.linear.default: LINEAR,
    aten.matmul.default: MATMUL,
    aten.mm.default: MATMUL,
    aten.bmm.default: MATMUL,
    aten.scaled_dot_product_attention.default: ATTENTION,
    **dict.fromkeys((aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default), POOL),
    **dict.fromkeys((aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default), POOL),
    **dict.fromkeys((aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default), POOL),
    **dict.fromkeys((aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default), REDUCE),
    **dict.fromkeys((aten.any.dim, aten.any.dims, aten.all.dim, aten.all.dims, aten.prod.dim_int), REDUCE),
    **dict.fromkeys((aten.argmax.default, aten.argmin.default), REDUCE),
    **dict.fromkeys((aten.sum.default, aten.mean.default, aten.max.default, aten.min.default), REDUCE),
    **dict.fromkeys((aten.any.default, aten.all.default, aten.prod.default), REDUCE),
    **dict.fromkeys((aten.layer_norm.default, aten.group_norm.default, aten.batch_norm.default), NORMALIZE),
    **dict.fromkeys((aten.rms_norm.default, aten.var.correction, aten.std.correction), NORMALIZE),
    **dict.fromkeys((aten.linalg_vector_norm.default,), NORMALIZE),
    **dict.fromkeys((aten._softmax.default, aten._log_softmax.default), SOFTMAX),
    **dict.fromkeys((aten.softmax.int, aten.log_softmax.int, aten.logsumexp.default), SOFTMAX),
    aten.cat.default: CONCAT,
    aten.embedding.default: EMBEDDING,
}

INTEGER_ANCHORS: Mapping[str, Family] = {
    "convolution": CONV,
    "linear": LINEAR,
    "matmul": MATMUL,
    "sum": REDUCE,
    **dict.fromkeys(("sum_pool", "max_pool"), POOL),
    **dict.fromkeys(("layer_norm", "rms_norm"), NORMALIZE),
    "softmax": SOFTMAX,
    "resize": RESIZE,
}
"""The same for `planish::` operators, by name."""

INTEGER_POINTWISE = frozenset({"quantize", "dequantize", "requantize", "mul", "add", "lookup", "curve"})
"""`planish::` operators whose elements depend on one element of each operand, tables aside."""

CHEAP = frozenset(
    {aten._to_copy.default, aten.neg.default, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}
)
"""Pointwise ops that, with at most one scalar beside one tensor, cost no more than reading their result again."""

COSTLY = frozenset(
    {aten.exp.default, aten.log.default, aten.erf.default, aten.sin.default, aten.cos.default, aten.tanh.default}
    | {aten.sigmoid.default, aten.silu.default, aten.gelu.default, aten.mish.default, aten.softplus.default}
    | {aten.elu.default, aten.celu.default, aten.selu.default, aten.expm1.default, aten.log1p.default}
    | {aten.log_sigmoid.default, aten.pow.Tensor_Tensor, aten.pow.Scalar, aten.atan2.default}
)
"""Pointwise ops that must not be computed several times an element."""


def family(node: fx.Node) -> Family | None:
    """Return the family a node anchors; None for pointwise ops and views."""
    found = ANCHORS.get(node.target) or INTEGER_ANCHORS.get(ops.integer_name(node) or "")
    return None if found is None and (is_view(node) or is_pointwise(node)) else found or OTHER


def is_view(node: fx.Node) -> bool:
    """Say whether a node only moves elements."""
    return node.target in VIEWS


def may_follow(kind: Family, node: fx.Node) -> bool:
    """Say whether a view may be part of an epilogue of this kind."""
    if not kind.views_after or node.target not in BIJECTIVE:
        return False
    return not kind.by_rows or _keeps_rows(node)


def _keeps_rows(node: fx.Node) -> bool:
    last = node.meta["val"].dim() - 1
    if node.target is aten.reshape.default:
        return True
    dims: Any = node.args[1] if node.target is not aten.roll.default else node.args[2]
    if node.target is aten.permute.default:
        return bool(dims[last] == last)
    return bool(dims) and last not in [dim % (last + 1) for dim in dims]


def is_pointwise(node: fx.Node) -> bool:
    """Say whether each element of the result depends on one element of each (broadcast) operand."""
    if node.target is aten.prelu.default:  # a weight per channel lies along axis 1: that is no broadcast
        weight: Any = node.args[1]
        return bool(weight.meta["val"].numel() == 1)
    if ops.family(node) == "integer":
        return ops.integer_name(node) in INTEGER_POINTWISE and not _computes_table(node)
    return ops.family(node) == "pointwise" and isinstance(node.meta["val"], torch.Tensor)


def _computes_table(node: fx.Node) -> bool:
    """Whether a function is looked up in a table that is no constant: no element of that belongs to one of x."""
    table = node.args[1] if ops.integer_name(node) in ("lookup", "curve") else None
    return isinstance(table, fx.Node) and table.op != "get_attr"


def is_costly(node: fx.Node) -> bool:
    """Say whether a pointwise node must not be computed several times an element."""
    return node.target in COSTLY or ops.family(node) == "integer"


def is_cheap(node: fx.Node) -> bool:
    """Say whether recomputing a node is as cheap as reading it: one tensor operand, arithmetic or a cast."""
    return node.target in CHEAP and len(node.all_input_nodes) == 1
