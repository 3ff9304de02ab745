"""Products of activations and softmax: what attention is made of.

a @ b: any codes of 8 bits, or a softmax's of 16, times symmetric ones
softmax(s · accumulator): as exact as the products are
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from ....ir.dyadic import INT32
from ....ir.ops import arguments, integer_name, is_call
from ....ir.quantized.constants import softmax_scale
from ....ir.types import QuantParams
from ..builder import Builder
from ..forms import Accumulator, Form, Target, Term, one, requantize

planish = torch.ops.planish
aten = torch.ops.aten
MOST_SHARES = 2**15 - 1
"""Codes of shares are 0..32767."""
FINE = QuantParams(2.0**-15, 0, 0, MOST_SHARES, torch.int16)
"""Shares up to 1."""
HEADROOM = 3
"""Finer codes than these leave room for shares 2^3 times as large as the largest that was seen."""
FINEST = 22
"""Of 2^22 a whole row adds up to 2^22, and with a factor of 127 to 2^29."""


def matmul(node: fx.Node, builder: Builder) -> Form | str:
    """A product of two activations; the second is symmetric, so that no sums of it are subtracted."""
    operands: Any = node.args
    x, y = builder.params(operands[0]), builder.plan.factor(operands[1])
    depth, widest = int(operands[0].meta["val"].shape[-1]), max(y.high, -y.low)
    if not _is_shares(x) or _most(operands[0], x, depth) * widest > INT32[1]:
        x = builder.plan.bytes(operands[0])
    if _most(operands[0], x, depth) * widest > INT32[1]:
        return f"a sum of {depth} products does not fit 32 bits"
    first, second = (builder.read(value, Target.of(codes)) for value, codes in zip(operands, (x, y), strict=True))
    with builder.stand_for(node):
        total = builder.call(planish.matmul.default, first, second, x.zero)
    return Accumulator(Term(total, one(x.scale * y.scale), 0))


def _is_shares(params: QuantParams) -> bool:
    """Whether codes are those of a softmax."""
    return params.dtype is torch.int16 and not params.low and bits_of_shares(params) is not None


def _most(first: fx.Node, x: QuantParams, depth: int) -> int:
    """What the codes of a row add up to at most; shares of one softmax to 1, and each is rounded up by less than 1."""
    most = depth * max(x.high - x.zero, x.zero - x.low)
    axis = softmax_axis(first)
    whole = axis is not None and axis % first.meta["val"].dim() == first.meta["val"].dim() - 1 and _is_shares(x)
    return min(most, round(1 / x.scale) + depth) if whole else most


def softmax_axis(node: fx.Node) -> int | None:
    """Along which a call gives shares, if it does."""
    if is_call(node, aten._softmax.default) or integer_name(node) == "masked_softmax":
        return int(arguments(node)["dim"])
    return None


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
    """15 bits for shares up to 1, finer ones where all are far smaller; the scale is a power of two.

    A row of n shares has n roundings: of 8 bits, which rows of 197 with shares of about 1/197 were given, they would
    be the largest noise of the whole network.
    """
    bits = 15 if most <= 0 else min(max(math.floor(math.log2(MOST_SHARES / most)) - HEADROOM, 15), FINEST)
    return replace(FINE, scale=2.0**-bits)


def bits_of_shares(params: QuantParams) -> int | None:
    """bits where the codes are those of a softmax: scale 2^-bits, zero 0, and all that there are."""
    bits = 1 - math.frexp(params.scale)[1]
    if not 1 <= bits <= 30 or params.scale != 2.0**-bits or params.zero or params.low:
        return None
    return bits if params.high == min(2**bits - 1, torch.iinfo(params.dtype).max) else None
