"""decompose_attention: attention as two products and a softmax; masks as places that are seen, not as scores of -inf.

    attention(q, k, v) == softmax(q @ k.T * scale) @ v          softmax(s + (0 or -inf)) == masked_softmax(s, seen)

Integers need a scale for each of these values, and -inf has none.

Conditions:
- an additive mask is one where all its entries are 0 or at most -1e4 (what it adds is 0 in float32, or wipes out);
  it may be a constant, a choice between constants, or be computed from an input of integers that is 0 or 1;
  any other is added to the scores;
- a row that is masked wholly gives 0, where a mask of large numbers (not of -inf) has equal shares.

Before:
    program(%q: f32[1, 2, 3, 4], %k: f32[1, 2, 3, 4]) {
      %y: f32[1, 2, 3, 4] = scaled_dot_product_attention(%q, %k, %k, none, 0.0, true, scale=0.5)
      return %y
    }

After:
    program(%q: f32[1, 2, 3, 4], %k: f32[1, 2, 3, 4]) {
      @causal: bool[3, 3] = [[true, false, false], [true, true, false], [true, true, true]]
      %permute: f32[1, 2, 4, 3] = permute(%k, [0, 1, 3, 2])
      %matmul: f32[1, 2, 3, 3] = matmul(%q, %permute)
      %mul: f32[1, 2, 3, 3] = mul.Tensor(%matmul, 0.5)
      %masked_softmax: f32[1, 2, 3, 3] = planish::masked_softmax(%mul, @causal, 3)
      %matmul_1: f32[1, 2, 3, 4] = matmul(%masked_softmax, %k)
      return %matmul_1
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.ops import argument, arguments, is_call
from ...ir.program import Program
from ...ir.quantized.operators import FLOATING
from ...ir.rules import Call, Expr, Replacement, Rule, Weight
from ..base import Numerics, Pass
from ..normalize.spelling import aten, call, shape_of, value_of
from .masks import seen_places, seen_scores

MASKED = getattr(torch.ops.planish, FLOATING[0].name).default


def attention(node: fx.Node, program: Program) -> Replacement | None:
    """`scaled_dot_product_attention` by products and a softmax."""
    if not is_call(node, aten.scaled_dot_product_attention.default):
        return None
    given = arguments(node)
    query, key, value = given["query"], given["key"], given["value"]
    rank = len(shape_of(key))
    turned = call(aten.permute.default, key, [*range(rank - 2), rank - 1, rank - 2])
    scores: Expr = call(aten.mul.Tensor, call(aten.matmul.default, query, turned), given["scale"])
    last = len(shape_of(node)) - 1
    if given["is_causal"]:
        seen = torch.ones(shape_of(query)[-2], shape_of(key)[-2], dtype=torch.bool).tril()
        shares = Call(MASKED, (scores, Weight("causal", seen), last))
    else:
        shares = _shares(scores, given["attn_mask"], last, program)
    return Replacement({node: call(aten.matmul.default, shares, value)})


def _shares(scores: Expr, mask: fx.Node | None, dim: int, program: Program) -> Call:
    """The softmax of scores under a mask: of places, or of what is added."""
    if mask is None:
        return call(aten._softmax.default, scores, dim, False)
    if value_of(mask).dtype == torch.bool:
        return Call(MASKED, (scores, mask, dim))
    seen = seen_places(mask, program)
    if seen is not None:
        return Call(MASKED, (scores, seen, dim))
    return call(aten._softmax.default, call(aten.add.Tensor, scores, mask), dim, False)


def mask(node: fx.Node, program: Program) -> Replacement | None:
    """A softmax of scores to which a mask was added, or in which one was filled."""
    if not is_call(node, aten._softmax.default, MASKED):
        return None
    masked = is_call(node, MASKED)
    scores: fx.Node = argument(node, "x" if masked else "self")
    seen: Expr | None = argument(node, "seen") if masked else None
    inner = scores
    while (found := seen_scores(inner, program)) is not None and shape_of(found[0]) == shape_of(node):
        inner = found[0]
        seen = found[1] if seen is None else call(aten.logical_and.default, found[1], seen)
    if inner is scores:
        return None
    return Replacement({node: Call(MASKED, (inner, seen, argument(node, "dim")))})


@dataclass(frozen=True)
class DecomposeAttention(Pass):
    """Spell attention and its masks as integers can compute them."""

    name: ClassVar[str] = "decompose_attention"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """Attention first: its masks are read by the second rule."""
        rules: tuple[tuple[str, Any], ...] = (("decompose_attention", attention), ("masks_as_places", mask))
        return rules
