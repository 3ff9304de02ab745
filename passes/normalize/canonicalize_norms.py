"""canonicalize_norms: one spelling for each normalization.

    batch_norm(x, w, b, mean, var, False, momentum, eps, False),  layer_norm,  group_norm,  rms_norm  are kept whole;
    instance_norm(x) == group_norm(x, groups=channels);  batch norm of the batch's own statistics == its formula

Conditions:
- the statistics that a native norm returns beside its result must be unused;
- an instance norm with running statistics is an (evaluating) batch norm.
Batch statistics and instance norm are the same sums in another order; everything else keeps its bits.

Before:
    program(%x: f32[2, 3, 4, 4]) {
      @w: f32[3] = [0.6219854, -1.17197, 1.0777993]
      @var: f32[3] = [0.5610533, 0.7245545, 0.7342525]
      @mean: f32[3] = [0.32912475, 1.5632136, -0.649229]
      %native: (f32[2, 3, 4, 4], f32[0], f32[0]) = _native_batch_norm_legit_no_training(%x, @w, none, @mean, @var, 0.1, 1e-05)
      %getitem: f32[2, 3, 4, 4] = getitem(%native, 0)
      return %getitem
    }

After:
    program(%x: f32[2, 3, 4, 4]) {
      @w: f32[3] = [0.6219854, -1.17197, 1.0777993]
      @var: f32[3] = [0.5610533, 0.7245545, 0.7342525]
      @mean: f32[3] = [0.32912475, 1.5632136, -0.649229]
      %batch_norm: f32[2, 3, 4, 4] = batch_norm(%x, @w, none, @mean, @var, false, 0.1, 1e-05, false)
      return %batch_norm
    }
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Call, Expr, Refused
from ..base import Numerics
from .spelling import OpPass, Respell, Verdict, args_of, aten, call, first_result_only, replace_by, shape_of, value_of


def native_batch_norm(node: fx.Node, program: Program) -> Verdict:
    """Native batch norms that use running statistics."""
    given = arguments(node)
    if given.get("training", False):
        return _batch_statistics(node, given)
    return first_result_only(node, _batch_norm(given), "saved statistics")


def batch_norm(node: fx.Node, program: Program) -> Verdict:
    """`batch_norm` itself: cudnn off, statistics of the batch only where there are no others."""
    given = arguments(node)
    if given["running_mean"] is None:
        return replace_by(node, _normalize(given))
    if given["training"]:
        return Refused("it updates its running statistics", node)
    return replace_by(node, _batch_norm(given))


def _batch_statistics(node: fx.Node, given: Mapping[str, Any]) -> Verdict:
    if given.get("running_mean") is not None:
        return Refused("it updates its running statistics", node)
    return first_result_only(node, _normalize(given), "saved statistics")


def _batch_norm(given: Mapping[str, Any]) -> Call:
    statistics = (given["running_mean"], given["running_var"], False, given["momentum"], given["eps"], False)
    return call(aten.batch_norm.default, given["input"], given["weight"], given["bias"], *statistics)


def _normalize(given: Mapping[str, Any]) -> Call:
    """(x - mean) / sqrt(var + eps) * w + b over all dimensions but the channels."""
    x: fx.Node = given["input"]
    shape = shape_of(x)
    dims = [dim for dim in range(len(shape)) if dim != 1]
    mean = call(aten.mean.dim, x, dims, True)
    var = call(aten.var.correction, x, dims, correction=0, keepdim=True)
    scale = call(aten.rsqrt.default, call(aten.add.Tensor, var, given["eps"]))
    result = call(aten.mul.Tensor, call(aten.sub.Tensor, x, mean), scale)
    for op, parameter in ((aten.mul.Tensor, given["weight"]), (aten.add.Tensor, given["bias"])):
        if parameter is not None:
            column = call(aten.reshape.default, parameter, [shape[1]] + [1] * (len(shape) - 2))
            result = call(op, result, column)
    return result


def instance_norm(node: fx.Node, program: Program) -> Verdict:
    """Statistics of each image and channel (a group norm), or running ones (a batch norm)."""
    given = arguments(node)
    if not given["use_input_stats"]:
        return replace_by(node, _batch_norm(given))
    if given["running_mean"] is not None:
        return Refused("it updates its running statistics", node)
    channels = shape_of(given["input"])[1]
    rest = (given["weight"], given["bias"], given["eps"], False)
    return replace_by(node, call(aten.group_norm.default, given["input"], channels, *rest))


def native_layer_norm(node: fx.Node, program: Program) -> Verdict:
    """The first of its three results."""
    given = arguments(node)
    rest = (given["normalized_shape"], given["weight"], given["bias"], given["eps"], False)
    return first_result_only(node, call(aten.layer_norm.default, given["input"], *rest), "saved statistics")


def layer_norm(node: fx.Node, program: Program) -> Verdict:
    """`layer_norm` itself: cudnn off."""
    return replace_by(node, call(aten.layer_norm.default, *args_of(node)[:5], False))


def native_group_norm(node: fx.Node, program: Program) -> Verdict:
    """The first of its three results."""
    given = arguments(node)
    rest = (given["group"], given["weight"], given["bias"], given["eps"], False)
    return first_result_only(node, call(aten.group_norm.default, given["input"], *rest), "saved statistics")


def group_norm(node: fx.Node, program: Program) -> Verdict:
    """`group_norm` itself: cudnn off."""
    return replace_by(node, call(aten.group_norm.default, *args_of(node)[:5], False))


def rms_norm(node: fx.Node, program: Program) -> Verdict:
    """`eps` as a number: where it is left out, the dtype's own."""
    given = arguments(node)
    eps = _rms_eps(given["input"], given["eps"])
    rest = (given["normalized_shape"], given["weight"], eps)
    return replace_by(node, call(aten.rms_norm.default, given["input"], *rest))


def fused_rms_norm(node: fx.Node, program: Program) -> Verdict:
    """The first of its two results."""
    given = arguments(node)
    eps = _rms_eps(given["input"], given["eps"])
    value: Expr = call(aten.rms_norm.default, given["input"], given["normalized_shape"], given["weight"], eps)
    return first_result_only(node, value, "saved statistics")


def _rms_eps(x: fx.Node, eps: float | None) -> float:
    """What PyTorch takes for None: the epsilon of the dtype it computes in."""
    if eps is not None and not math.isnan(eps):
        return eps
    dtype = value_of(x).dtype
    return torch.finfo(torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype).eps


TABLE: Mapping[Any, Respell] = {
    aten.batch_norm.default: batch_norm,
    aten._native_batch_norm_legit_no_training.default: native_batch_norm,
    aten._native_batch_norm_legit.no_stats: native_batch_norm,
    aten.native_batch_norm.default: native_batch_norm,
    aten.instance_norm.default: instance_norm,
    aten.layer_norm.default: layer_norm,
    aten.native_layer_norm.default: native_layer_norm,
    aten.group_norm.default: group_norm,
    aten.native_group_norm.default: native_group_norm,
    aten.rms_norm.default: rms_norm,
    aten._fused_rms_norm.default: fused_rms_norm,
}


@dataclass(frozen=True)
class CanonicalizeNorms(OpPass):
    """Spell every normalization in its one way."""

    name: ClassVar[str] = "canonicalize_norms"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS
    table: ClassVar[Mapping[Any, Respell]] = TABLE
