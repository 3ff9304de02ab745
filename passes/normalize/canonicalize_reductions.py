"""canonicalize_reductions: which dimensions, counted from the front, and whether they stay.

    sum.dim_IntList, mean.dim, amax, amin, any.dims, all.dims, prod.dim_int, argmax, argmin, var.correction,
    _softmax, _log_softmax, cumsum

    max(x, d).values == amax(x, [d]);   softmax(x, d, dtype) == _softmax(cast(x), d);   norm(x) == sqrt(sum(x * x))

Conditions:
- of `max` and `min` along a dimension only one result may be used; indices alone are `argmax` and `argmin`;
- a dtype argument becomes a cast of the input, as PyTorch defines it.
Norms are the same sums in another order; everything else keeps its bits.

Before:
    program(%x: f32[2, 3, 4]) {
      %m: (f32[2, 4], i64[2, 4]) = max.dim(%x, -2, false)
      %v: f32[2, 4] = getitem(%m, 0)
      %s: f32[2, 4] = softmax.int(%v, -1)
      return %s
    }

After:
    program(%x: f32[2, 3, 4]) {
      %amax: f32[2, 4] = amax(%x, [1], false)
      %_softmax: f32[2, 4] = _softmax(%amax, 1, false)
      return %_softmax
    }
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Call, Expr, Refused, Replacement
from ..base import Numerics
from .spelling import (
    OpPass,
    Respell,
    Verdict,
    args_of,
    aten,
    call,
    first_result_only,
    parts_of,
    positive_dim,
    positive_dims,
    replace_by,
    shape_of,
    value_of,
)


def over_dims(op: Any) -> Respell:
    """Reductions that take a list of dimensions."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        given = arguments(node)
        x: fx.Node = given["self"]
        dims = positive_dims(given.get("dim"), len(shape_of(x)))
        return replace_by(node, call(op, _cast(x, given.get("dtype")), dims, given.get("keepdim", False)))

    return respell


def product(node: fx.Node, program: Program) -> Verdict:
    """`prod` over one dimension; over all of them, of the flattened input."""
    given = arguments(node)
    x: fx.Node = given["self"]
    source = _cast(x, given.get("dtype"))
    if "dim" not in given:
        flat = call(aten.reshape.default, source, [math.prod(shape_of(x))])
        return replace_by(node, call(aten.prod.dim_int, flat, 0, False))
    dim = positive_dim(given["dim"], len(shape_of(x)))
    return replace_by(node, call(aten.prod.dim_int, source, dim, given["keepdim"]))


def along_dim(node: fx.Node, program: Program) -> Verdict:
    """Ops whose `dim` is one dimension and whose dtype is a cast: `cumsum`, `cumprod`."""
    given = arguments(node)
    x: fx.Node = given["self"]
    dim = positive_dim(given["dim"], len(shape_of(x)))
    return replace_by(node, call(node.target, _cast(x, given.get("dtype")), dim))


def position(node: fx.Node, program: Program) -> Verdict:
    """`argmax` and `argmin`: without a dimension, of the flattened input."""
    given = arguments(node)
    x: fx.Node = given["self"]
    shape = shape_of(x)
    if given["dim"] is not None:
        return replace_by(node, call(node.target, x, positive_dim(given["dim"], len(shape)), given["keepdim"]))
    flat = call(aten.reshape.default, x, [math.prod(shape)])
    result: Expr = call(node.target, flat, 0, False)
    return replace_by(node, call(aten.reshape.default, result, [1] * len(shape)) if given["keepdim"] else result)


def extremum(values: Any, indices: Any) -> Respell:
    """`max.dim` and `min.dim`: one op for each of the two results."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        given = arguments(node)
        x: fx.Node = given["self"]
        dim = positive_dim(given["dim"], len(shape_of(x)))
        parts = parts_of(node)
        if -1 in parts or not parts:
            return None
        made = {0: call(values, x, [dim], given["keepdim"]), 1: call(indices, x, dim, given["keepdim"])}
        return Replacement({part: made[index] for index, part in parts.items()}, (node,))

    return respell


def whole_extremum(op: Any) -> Respell:
    """`max.default` and `min.default`: over all dimensions."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        x: fx.Node = args_of(node)[0]
        return replace_by(node, call(op, x, list(range(len(shape_of(x)))), False))

    return respell


def both_extrema(node: fx.Node, program: Program) -> Verdict:
    """`aminmax`."""
    given = arguments(node)
    dims = positive_dims(given["dim"], len(shape_of(given["self"])))
    parts = parts_of(node)
    if -1 in parts or not parts:
        return None
    made = [call(op, given["self"], dims, given["keepdim"]) for op in (aten.amin.default, aten.amax.default)]
    return Replacement({part: made[index] for index, part in parts.items()}, (node,))


def variance(node: fx.Node, program: Program) -> Verdict:
    """`var` by its correction (a number: 1 where it is left out)."""
    given = arguments(node)
    x: fx.Node = given["self"]
    correction = given.get("correction", 1 if given.get("unbiased", True) else 0)
    keywords = {"correction": 1 if correction is None else correction, "keepdim": given.get("keepdim", False)}
    return replace_by(node, call(aten.var.correction, x, positive_dims(given.get("dim"), len(shape_of(x))), **keywords))


def moments(root: bool) -> Respell:
    """`var_mean` and `std_mean`: one op for each of the two results."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        given = arguments(node)
        x: fx.Node = given["self"]
        parts = parts_of(node)
        if -1 in parts or not parts:
            return None
        correction = given.get("correction", 1 if given.get("unbiased", True) else 0)
        dims, keep = positive_dims(given.get("dim"), len(shape_of(x))), given.get("keepdim", False)
        spread = call(aten.var.correction, x, dims, correction=1 if correction is None else correction, keepdim=keep)
        made = {0: call(aten.sqrt.default, spread) if root else spread, 1: call(aten.mean.dim, x, dims, keep)}
        return Replacement({part: made[index] for index, part in parts.items()}, (node,))

    return respell


def softmax(op: Any) -> Respell:
    """`softmax.int`, `_softmax` and their logarithms."""

    def respell(node: fx.Node, program: Program) -> Verdict:
        given = arguments(node)
        x: fx.Node = given["self"]
        if given.get("half_to_float"):
            return Refused("it computes in half precision and returns single", node)
        dim = positive_dim(given["dim"], len(shape_of(x)))
        return replace_by(node, call(op, _cast(x, given.get("dtype")), dim, False))

    return respell


def vector_norm(node: fx.Node, program: Program) -> Verdict:
    """The usual norms by their definitions."""
    given = arguments(node)
    x: fx.Node = given["self"]
    order, keep = given["ord"], given["keepdim"]
    dims = positive_dims(given["dim"], len(shape_of(x)))
    source = _cast(x, given["dtype"])
    if not value_of(node).dtype.is_floating_point or value_of(x).dtype.is_complex:
        return Refused("its dtype is complex", node)
    return replace_by(node, _norm(source, order, dims, keep, value_of(node).dtype))


def _norm(x: Expr, order: float, dims: list[int], keep: bool, dtype: torch.dtype) -> Call:
    size = call(aten.abs.default, x)
    if order == 2:
        return call(aten.sqrt.default, call(aten.sum.dim_IntList, call(aten.mul.Tensor, x, x), dims, keep))
    if order == math.inf:
        return call(aten.amax.default, size, dims, keep)
    if order == -math.inf:
        return call(aten.amin.default, size, dims, keep)
    if order == 1:
        return call(aten.sum.dim_IntList, size, dims, keep)
    if order == 0:
        count = call(aten.sum.dim_IntList, call(aten.ne.Scalar, x, 0.0), dims, keep)
        return call(aten._to_copy.default, count, dtype=dtype)
    power = call(aten.sum.dim_IntList, call(aten.pow.Tensor_Scalar, size, order), dims, keep)
    return call(aten.pow.Tensor_Scalar, power, 1.0 / order)


def safe_softmax(node: fx.Node, program: Program) -> Verdict:
    """`_safe_softmax`: zeros where a whole row is -inf."""
    given = arguments(node)
    x: fx.Node = given["self"]
    dim = positive_dim(given["dim"], len(shape_of(x)))
    source = _cast(x, given["dtype"])
    result = call(aten._softmax.default, source, dim, False)
    empty = call(aten.eq.Scalar, call(aten.amax.default, source, [dim], True), -math.inf)
    return replace_by(node, call(aten.masked_fill.Scalar, result, empty, 0.0))


def log_sigmoid(node: fx.Node, program: Program) -> Verdict:
    """The first result of `log_sigmoid_forward`."""
    return first_result_only(node, call(aten.log_sigmoid.default, *args_of(node)), "saved exponentials")


def _cast(x: fx.Node, dtype: torch.dtype | None) -> Expr:
    """The input in the dtype that the op is asked to compute in."""
    return x if dtype is None or dtype == value_of(x).dtype else call(aten._to_copy.default, x, dtype=dtype)


TABLE: Mapping[Any, Respell] = {
    **dict.fromkeys((aten.sum.default, aten.sum.dim_IntList), over_dims(aten.sum.dim_IntList)),
    **dict.fromkeys((aten.mean.default, aten.mean.dim), over_dims(aten.mean.dim)),
    **dict.fromkeys((aten.any.default, aten.any.dim, aten.any.dims), over_dims(aten.any.dims)),
    **dict.fromkeys((aten.all.default, aten.all.dim, aten.all.dims), over_dims(aten.all.dims)),
    aten.amax.default: over_dims(aten.amax.default),
    aten.amin.default: over_dims(aten.amin.default),
    aten.prod.default: product,
    aten.prod.dim_int: product,
    aten.cumsum.default: along_dim,
    aten.cumprod.default: along_dim,
    aten.argmax.default: position,
    aten.argmin.default: position,
    aten.max.dim: extremum(aten.amax.default, aten.argmax.default),
    aten.min.dim: extremum(aten.amin.default, aten.argmin.default),
    aten.max.default: whole_extremum(aten.amax.default),
    aten.min.default: whole_extremum(aten.amin.default),
    aten.aminmax.default: both_extrema,
    **dict.fromkeys((aten.var.default, aten.var.dim, aten.var.correction), variance),
    **dict.fromkeys((aten.var_mean.default, aten.var_mean.dim, aten.var_mean.correction), moments(root=False)),
    **dict.fromkeys((aten.std_mean.default, aten.std_mean.dim, aten.std_mean.correction), moments(root=True)),
    **dict.fromkeys((aten.softmax.int, aten._softmax.default), softmax(aten._softmax.default)),
    **dict.fromkeys((aten.log_softmax.int, aten._log_softmax.default), softmax(aten._log_softmax.default)),
    aten._safe_softmax.default: safe_softmax,
    aten.linalg_vector_norm.default: vector_norm,
    aten.log_sigmoid_forward.default: log_sigmoid,
}


@dataclass(frozen=True)
class CanonicalizeReductions(OpPass):
    """Spell reductions over explicit dimensions."""

    name: ClassVar[str] = "canonicalize_reductions"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS
    table: ClassVar[Mapping[Any, Respell]] = TABLE
