"""Products of activations and softmax: what attention is made of.

a @ b: any codes of 8 bits times symmetric ones        softmax(s · accumulator): as exact as the products are
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ....ir.dyadic import INT32
from ....ir.ops import arguments
from ....ir.quantized.constants import softmax_scale
from ....ir.types import QuantParams
from ..builder import Builder
from ..forms import Accumulator, Form, Target, Term, one, requantize

planish = torch.ops.planish
aten = torch.ops.aten
FINE = QuantParams(2.0**-15, 0, 0, 2**15 - 1, torch.int16)
"""Shares that are requantized afterwards."""


def matmul(node: fx.Node, builder: Builder) -> Form | str:
    """A product of two activations; the second is symmetric, so that no sums of it are subtracted."""
    operands: Any = node.args
    first, x = builder.bytes_of(operands[0])
    second, y = _symmetric(builder, operands[1])
    depth = operands[0].meta["val"].shape[-1]
    if depth * max(x.high - x.zero, x.zero - x.low) * max(y.high, -y.low) > INT32[1]:
        return f"a sum of {depth} products does not fit 32 bits"
    with builder.stand_for(node):
        total = builder.call(planish.matmul.default, first, second, x.zero)
    return Accumulator(Term(total, one(x.scale * y.scale), 0))


def _symmetric(builder: Builder, node: fx.Node) -> tuple[fx.Node, QuantParams]:
    """Codes of a second factor: the planned ones, or symmetric ones of the same range."""
    params = builder.plan.factor(node)
    return builder.read(node, Target.of(params)), params


@dataclass(frozen=True)
class Shares(Form):
    """A softmax of integers: powers of two are made of their distances from the largest."""

    term: Term
    seen: fx.Node | None
    dim: int

    def emit(self, builder: Builder, target: Target) -> fx.Node:
        """At a scale of 2^-bits at once; for other scales of 15 bits, requantized."""
        bits = bits_of_shares(target.params)
        if bits is None or (target.low, target.high) != (target.params.low, target.params.high):
            codes = self.emit(builder, Target.of(FINE))
            return requantize(builder, Term(codes, one(FINE.scale), 0), target)
        number = softmax_scale(float(self.term.scale))
        given = (self.term.node, self.seen, number.multiplier, number.shift, self.dim, bits, target.params.dtype)
        return builder.call(planish.softmax.default, *given)


def softmax(node: fx.Node, builder: Builder) -> Form | str:
    """`_softmax` and `masked_softmax`, of accumulators or of codes."""
    given = arguments(node)
    source: fx.Node = given["x"] if "x" in given else given["self"]
    term = builder.term(source)
    if term.scale.numel() != 1:
        params = builder.params(source)
        term = Term(builder.codes(source), one(params.scale), params.zero)
    return Shares(term, builder.other(given["seen"]) if "seen" in given else None, int(given["dim"]))


def in_float(node: fx.Node, builder: Builder) -> fx.Node:
    """A `masked_softmax` that stays in float, in ATen's operators: kernels know no other."""
    given = arguments(node)
    dim, rank = int(given["dim"]), node.meta["val"].dim()
    with builder.stand_for(node):
        scores, seen = builder.floats(given["x"]), builder.other(given["seen"])
        away, zero = (builder.weight(name, torch.tensor(v)) for name, v in (("away", -math.inf), ("none", 0.0)))
        own = [1] * (rank - seen.meta["val"].dim()) + list(seen.meta["val"].shape)
        places = builder.call(aten.reshape.default, seen, own)
        shares = builder.call(aten._softmax.default, builder.call(aten.where.self, seen, scores, away), dim, False)
        some = builder.call(aten.any.dim, places, dim, True)
        made = builder.call(aten.where.self, some, shares, zero)
    made.meta["of"] = node.name
    return made


def codes_of_shares(least: float, most: float) -> QuantParams:
    """256 codes for shares up to `most`, with a scale that is a power of two: rows may be long and shares small."""
    bits = 8 if most <= 0 else min(max(math.floor(math.log2(255 / most)), 8), 24)
    return QuantParams(2.0**-bits, 0, 0, 255, torch.uint8)


def bits_of_shares(params: QuantParams) -> int | None:
    """bits where the codes are those of a softmax: scale 2^-bits, zero 0, and all that there are."""
    bits = 1 - math.frexp(params.scale)[1]
    if not 1 <= bits <= 30 or params.scale != 2.0**-bits or params.zero or params.low:
        return None
    return bits if params.high == min(2**bits - 1, torch.iinfo(params.dtype).max) else None
