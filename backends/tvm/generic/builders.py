"""From ATen ops to fields and stages: which builder makes each op. Data; the builders lie in their families' files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from ....ir.ops import integer_name
from .build_contract import build_attention, build_convolution, build_linear, build_matmul
from .build_integer import (
    build_integer_convolution,
    build_integer_linear,
    build_integer_matmul,
    build_integer_max_pool,
    build_integer_sum,
    build_resize,
    build_sum_pool,
)
from .build_integer_rows import build_integer_norm, build_integer_softmax
from .build_move import (
    build_cat,
    build_constant_pad,
    build_embedding,
    build_gather,
    build_index,
    build_index_select,
    build_pad,
    build_triangle,
    build_view,
)
from .build_norm import build_group_norm, build_layer_norm, build_rms_norm, build_softmax, build_variance
from .build_reduce import build_argument, build_cumulative, build_logsumexp, build_norm, build_reduce
from .build_window import build_adaptive_pool, build_pool
from .region import RegionBuilder
from .stage import Field

aten = torch.ops.aten
Build = Callable[[RegionBuilder, fx.Node], Field]

BUILDERS: Mapping[Any, Build] = {
    **dict.fromkeys((aten.reshape.default, aten.permute.default, aten.expand.default), build_view),
    **dict.fromkeys((aten.slice.Tensor, aten.flip.default, aten.roll.default), build_view),
    aten.cat.default: build_cat,
    aten.constant_pad_nd.default: build_constant_pad,
    aten.pad.default: build_pad,
    **dict.fromkeys((aten.tril.default, aten.triu.default), build_triangle),
    aten.embedding.default: build_embedding,
    aten.index_select.default: build_index_select,
    aten.gather.default: build_gather,
    aten.index.Tensor: build_index,
    **dict.fromkeys((aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default), build_reduce),
    **dict.fromkeys((aten.any.dim, aten.all.dim, aten.any.dims, aten.all.dims, aten.prod.dim_int), build_reduce),
    **dict.fromkeys((aten.sum.default, aten.mean.default, aten.max.default, aten.min.default), build_reduce),
    **dict.fromkeys((aten.any.default, aten.all.default, aten.prod.default), build_reduce),
    **dict.fromkeys((aten.argmax.default, aten.argmin.default), build_argument),
    aten.logsumexp.default: build_logsumexp,
    aten.linalg_vector_norm.default: build_norm,
    **dict.fromkeys((aten.cumsum.default, aten.cumprod.default), build_cumulative),
    **dict.fromkeys((aten._softmax.default, aten._log_softmax.default), build_softmax),
    aten.layer_norm.default: build_layer_norm,
    aten.group_norm.default: build_group_norm,
    aten.rms_norm.default: build_rms_norm,
    **dict.fromkeys((aten.var.correction, aten.std.correction), build_variance),
    **dict.fromkeys((aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default), build_pool),
    **dict.fromkeys((aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default), build_pool),
    **dict.fromkeys((aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default), build_adaptive_pool),
    **dict.fromkeys((aten.adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d.default), build_adaptive_pool),
    aten.linear.default: build_linear,
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default), build_matmul),
    aten.convolution.default: build_convolution,
    aten.scaled_dot_product_attention.default: build_attention,
}  # fmt: skip

INTEGER_BUILDERS: Mapping[str, Build] = {
    "convolution": build_integer_convolution,
    "linear": build_integer_linear,
    "matmul": build_integer_matmul,
    "sum": build_integer_sum,
    "sum_pool": build_sum_pool,
    "max_pool": build_integer_max_pool,
    "resize": build_resize,
    "softmax": build_integer_softmax,
    **dict.fromkeys(("layer_norm", "rms_norm"), build_integer_norm),
}
"""The same for `planish::` operators, by name: they need not be registered."""


def builder_of(node: fx.Node) -> Build | None:
    """The builder of what a node calls; None if it is pointwise or unknown."""
    name = integer_name(node)
    return BUILDERS.get(node.target) if name is None else INTEGER_BUILDERS.get(name)
