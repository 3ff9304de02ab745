"""canonicalize_pads: `constant_pad_nd` for constants, `pad` for reflections and copies of the edge.

    pad(x, p, "constant", c) == constant_pad_nd(x, p, c);   pad(x, -p) == slice(x);
    pad(x, (l, r), "circular") == cat(end of x, x, start of x)

Conditions:
- pairs of zeros at the end are left out, a pad by nothing is the input itself;
- values only move, so every bit stays.

Before:
    program(%x: f32[1, 2, 5]) {
      %a: f32[1, 2, 6] = pad(%x, [2, -1], "constant", none)
      %b: f32[1, 2, 7] = pad(%a, [1, 0], "circular", none)
      %c: f32[1, 2, 9] = reflection_pad1d(%b, [1, 1])
      return %c
    }

After:
    program(%x: f32[1, 2, 5]) {
      %slice_1: f32[1, 2, 4] = slice.Tensor(%x, 2, 0, 4, 1)
      %constant_pad_nd: f32[1, 2, 6] = constant_pad_nd(%slice_1, [2, 0], 0.0)
      %slice_2: f32[1, 2, 1] = slice.Tensor(%constant_pad_nd, 2, 5, 6, 1)
      %cat: f32[1, 2, 7] = cat([%slice_2, %constant_pad_nd], 2)
      %pad: f32[1, 2, 9] = pad(%cat, [1, 1], "reflect", none)
      return %pad
    }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.ops import arguments
from ...ir.program import Program
from ...ir.rules import Expr
from .spelling import OpPass, Respell, Verdict, args_of, aten, call, replace_by, shape_of, value_of


def pad(node: fx.Node, program: Program) -> Verdict:
    """`pad` by its mode."""
    given = arguments(node)
    if given["mode"] == "constant":
        return _constant(node, given["pad"], given["value"] or 0)
    if given["mode"] == "circular":
        return _circular(node, given["pad"])
    return _pad(node, given["pad"], given["mode"])


def constant_pad(node: fx.Node, program: Program) -> Verdict:
    """`constant_pad_nd`."""
    given = arguments(node)
    return _constant(node, given["pad"], given["value"])


def circular_pad(node: fx.Node, program: Program) -> Verdict:
    """`_pad_circular`."""
    return _circular(node, arguments(node)["pad"])


def mode(name: str) -> Respell:
    """`reflection_padNd` and `replication_padNd`."""
    return lambda node, program: _pad(node, arguments(node)["padding"], name)


def _pad(node: fx.Node, pads: Sequence[int], name: str) -> Verdict:
    x: fx.Node = args_of(node)[0]
    if not any(pads):
        return replace_by(node, x)
    return replace_by(node, call(aten.pad.default, x, list(pads), name, None))


def _constant(node: fx.Node, pads: Sequence[int], value: Any) -> Verdict:
    """Cut where a pad is negative, then pad."""
    x: fx.Node = args_of(node)[0]
    shape = shape_of(x)
    source: Expr = x
    for pair in range(len(pads) // 2):
        low, high = min(pads[2 * pair], 0), min(pads[2 * pair + 1], 0)
        dim = len(shape) - 1 - pair
        if low or high:
            source = call(aten.slice.Tensor, source, dim, -low, shape[dim] + high, 1)
    grown = [max(amount, 0) for amount in pads]
    while grown and grown[-2:] == [0, 0]:
        del grown[-2:]
    floating = value_of(x).dtype.is_floating_point
    fill = float(value) if floating else value
    return replace_by(node, call(aten.constant_pad_nd.default, source, grown, fill) if grown else source)


def _circular(node: fx.Node, pads: Sequence[int]) -> Verdict:
    """Along each dimension: the end, the whole, the start."""
    x: fx.Node = args_of(node)[0]
    shape = shape_of(x)
    if any(amount < 0 for amount in pads):
        return None
    result: Expr = x
    for pair in range(len(pads) // 2):
        low, high = pads[2 * pair], pads[2 * pair + 1]
        dim = len(shape) - 1 - pair
        parts = [result]
        if low:
            parts.insert(0, call(aten.slice.Tensor, result, dim, shape[dim] - low, shape[dim], 1))
        if high:
            parts.append(call(aten.slice.Tensor, result, dim, 0, high, 1))
        result = call(aten.cat.default, parts, dim) if len(parts) > 1 else result
    return replace_by(node, result)


TABLE: Mapping[Any, Respell] = {
    aten.pad.default: pad,
    aten.constant_pad_nd.default: constant_pad,
    aten._pad_circular.default: circular_pad,
    aten.reflection_pad1d.default: mode("reflect"),
    aten.reflection_pad2d.default: mode("reflect"),
    aten.reflection_pad3d.default: mode("reflect"),
    aten.replication_pad1d.default: mode("replicate"),
    aten.replication_pad2d.default: mode("replicate"),
    aten.replication_pad3d.default: mode("replicate"),
}


@dataclass(frozen=True)
class CanonicalizePads(OpPass):
    """Spell pads in one way."""

    name: ClassVar[str] = "canonicalize_pads"
    table: ClassVar[Mapping[Any, Respell]] = TABLE
