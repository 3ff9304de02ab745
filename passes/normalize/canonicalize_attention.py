"""canonicalize_attention: scaled_dot_product_attention whole, its scale a number.

    attention(q, k, v, mask, 0.0, causal, scale) == softmax(q @ k.T * scale + mask) @ v

Conditions:
- without a scale it is 1 / sqrt(width of q);
- grouped queries get their keys and values repeated (as views);
- dropout inside is refused: it belongs to training.

Before:
    program(%q: f32[1, 4, 5, 16], %k: f32[1, 2, 5, 16]) {
      %y: f32[1, 4, 5, 16] = scaled_dot_product_attention(%q, %k, %k, none, 0.0, true, enable_gqa=true)
      return %y
    }

After:
    program(%q: f32[1, 4, 5, 16], %k: f32[1, 2, 5, 16]) {
      %reshape: f32[1, 2, 1, 5, 16] = reshape(%k, [1, 2, 1, 5, 16])
      %expand: f32[1, 2, 2, 5, 16] = expand(%reshape, [1, 2, 2, 5, 16])
      %reshape_1: f32[1, 4, 5, 16] = reshape(%expand, [1, 4, 5, 16])
      %reshape_2: f32[1, 2, 1, 5, 16] = reshape(%k, [1, 2, 1, 5, 16])
      %expand_1: f32[1, 2, 2, 5, 16] = expand(%reshape_2, [1, 2, 2, 5, 16])
      %reshape_3: f32[1, 4, 5, 16] = reshape(%expand_1, [1, 4, 5, 16])
      %scaled_dot_product_attention: f32[1, 4, 5, 16] = scaled_dot_product_attention(%q, %reshape_1, %reshape_3, none, 0.0, true, scale=0.25)
      return %scaled_dot_product_attention
    }
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Call, Expr, Refused
from ..base import Numerics
from .spelling import OpPass, Respell, Verdict, aten, call, first_result_only, replace_by, shape_of


def attention(node: fx.Node, program: Program) -> Verdict:
    """`scaled_dot_product_attention` with its scale."""
    given = arguments(node)
    if given["dropout_p"]:
        return Refused("it has dropout inside", node)
    return replace_by(node, _attention(given))


def flash_attention(node: fx.Node, program: Program) -> Verdict:
    """The first result of the CPU's own kernel."""
    given = arguments(node)
    if given["dropout_p"]:
        return Refused("it has dropout inside", node)
    return first_result_only(node, _attention(given), "saved sums")


def _attention(given: Mapping[str, Any]) -> Call:
    query = given["query"]
    scale = given["scale"] if given["scale"] is not None else 1 / math.sqrt(shape_of(query)[-1])
    heads = shape_of(query)[-3] if given.get("enable_gqa") else None
    key, value = (_repeat_heads(given[name], heads) for name in ("key", "value"))
    mask, causal = given["attn_mask"], given["is_causal"]
    op = aten.scaled_dot_product_attention.default
    return call(op, query, key, value, mask, 0.0, causal, scale=float(scale))


def _repeat_heads(source: fx.Node, heads: int | None) -> Expr:
    """Every head of keys and values `heads / its heads` times in a row."""
    shape = shape_of(source)
    if heads is None or shape[-3] == heads:
        return source
    head, (own, length, width) = shape[:-3], shape[-3:]
    apart = call(aten.reshape.default, source, [*head, own, 1, length, width])
    repeated = call(aten.expand.default, apart, [*head, own, heads // own, length, width])
    return call(aten.reshape.default, repeated, [*head, heads, length, width])


TABLE: Mapping[Any, Respell] = {
    aten.scaled_dot_product_attention.default: attention,
    aten._scaled_dot_product_flash_attention_for_cpu.default: flash_attention,
}


@dataclass(frozen=True)
class CanonicalizeAttention(OpPass):
    """Spell attention in one way."""

    name: ClassVar[str] = "canonicalize_attention"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS
    table: ClassVar[Mapping[Any, Respell]] = TABLE
