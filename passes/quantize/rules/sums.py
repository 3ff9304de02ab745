"""Sums: of two values, over dimensions, over windows.

a + alpha b: one rounding      mean: Σ (x - z) / n, where 1 / n is in the scale      average pool: by place
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from ....ir.dyadic import INT32
from ....ir.ops import arguments
from ....ir.quantized.constants import divisors
from ....ir.types import QuantParams
from ..builder import Builder
from ..forms import Accumulator, Form, Sum, Term, one

planish = torch.ops.planish


def total(node: fx.Node, builder: Builder, a: fx.Node, b: fx.Node, signs: tuple[float, float]) -> Form:
    """signs[0] a + signs[1] b. Of two accumulators the one that is ready first is rounded: one kernel makes one."""
    first, second = builder.term(a), builder.term(b)
    if first.node.meta["val"].dtype == second.node.meta["val"].dtype == torch.int32:
        if first.node < second.node:
            first = _codes(builder, a)
        else:
            second = _codes(builder, b)
    terms = [Term(t.node, t.scale * sign, t.zero) for t, sign in zip((first, second), signs, strict=True)]
    return Sum(terms[0], terms[1])


def reduction(node: fx.Node, builder: Builder) -> Form | str:
    """A sum or a mean over dimensions."""
    given = arguments(node)
    x: fx.Node = given["self"]
    rank = x.meta["val"].dim()
    dims = [dim % rank for dim in given.get("dim") or range(rank)]
    count = math.prod(x.meta["val"].shape[dim] for dim in dims)
    codes, params = builder.summands(x)
    if not _fits(count, params):
        return f"a sum of {count} values does not fit 32 bits"
    scale = params.scale / count if node.target in MEANS else params.scale
    with builder.stand_for(node):
        made = builder.call(planish.sum.default, codes, dims, bool(given.get("keepdim", False)), params.zero)
    return Accumulator(Term(made, one(scale), 0))


def average_pool(node: fx.Node, builder: Builder) -> Form | str:
    """Window sums; where windows are cut and the count differs, the scale is one a place."""
    given = arguments(node)
    x: fx.Node = given["self"]
    kernel, padding = list(given["kernel_size"]), list(given["padding"])
    stride = list(given["stride"]) or kernel
    ceil, override = bool(given["ceil_mode"]), given.get("divisor_override")
    codes, params = builder.summands(x)
    if not _fits(math.prod(kernel), params):
        return f"a sum of {math.prod(kernel)} values does not fit 32 bits"
    if override:
        counts: Any = one(float(override))
    else:
        extents = x.meta["val"].shape[-len(kernel) :]
        counts = divisors(extents, kernel, stride, padding, ceil, bool(given["count_include_pad"]))
    with builder.stand_for(node):
        made = builder.call(planish.sum_pool.default, codes, params.zero, kernel, stride, padding, ceil)
    return Accumulator(Term(made, _one_if_equal(params.scale / counts), 0))


MEANS = (torch.ops.aten.mean.dim, torch.ops.aten.mean.default)


def _codes(builder: Builder, node: fx.Node) -> Term:
    """A value's planned codes as a term."""
    params = builder.params(node)
    return Term(builder.codes(node), one(params.scale), params.zero)


def _fits(count: int, params: QuantParams) -> bool:
    return count * max(params.high - params.zero, params.zero - params.low) <= INT32[1]


def _one_if_equal(scales: Tensor) -> Tensor:
    """One scale, if all are the same."""
    return scales.flatten()[:1] if bool((scales == scales.flatten()[0]).all()) else scales
