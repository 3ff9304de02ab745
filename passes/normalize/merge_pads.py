"""merge_pads: a convolution pads by itself.

    convolution(pad(x, p), padding=q) == convolution(x, padding=p + q);   pad(pad(x, p), q) == pad(x, p + q)

Conditions:
- the pad's value is zero and it reaches spatial dimensions only, equally at both ends;
- the convolution is not transposed (its padding means cutting).
The same sums of the same products, some of them with zeros that are not stored.

Before:
    program(%x: f32[1, 2, 5, 5]) {
      @w: f32[3, 2, 3, 3]
      %constant_pad_nd: f32[1, 2, 7, 9] = constant_pad_nd(%x, [2, 2, 1, 1], 0.0)
      %y: f32[1, 3, 7, 7] = convolution(%constant_pad_nd, @w, none, [1, 1], [1, 0], [1, 1], false, [0, 0], 1)
      return %y
    }

After:
    program(%x: f32[1, 2, 5, 5]) {
      @w: f32[3, 2, 3, 3]
      %convolution: f32[1, 3, 7, 7] = convolution(%x, @w, none, [1, 1], [2, 2], [1, 1], false, [0, 0], 1)
      return %convolution
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.match import equal_literals
from ...ir.ops import is_call
from ...ir.program import Program
from ...ir.rules import Refused
from ..base import Numerics
from .spelling import OpPass, Respell, Verdict, args_of, aten, call, replace_by


def convolution(node: fx.Node, program: Program) -> Verdict:
    """A convolution of a padded input."""
    source, weight, bias, stride, padding, dilation, transposed, *rest = args_of(node)
    if not is_call(source, aten.constant_pad_nd.default):
        return None
    x, pads, value = args_of(source)
    if transposed or value != 0:
        return None
    rank = len(padding)
    if len(pads) > 2 * rank:
        return Refused("the input is padded in its channels", source)
    if list(pads[::2]) != list(pads[1::2]):
        return Refused("the input is padded more at one end than at the other", source)
    grown = [*pads[::2], *[0] * (rank - len(pads) // 2)][::-1]
    sums = [own + more for own, more in zip(padding, grown, strict=True)]
    result = call(aten.convolution.default, x, weight, bias, stride, sums, dilation, transposed, *rest)
    return replace_by(node, result, source)


def pad(node: fx.Node, program: Program) -> Verdict:
    """A pad of a padded input."""
    source, outer, value = args_of(node)
    if not is_call(source, aten.constant_pad_nd.default) or not equal_literals(args_of(source)[2], value):
        return None
    x, inner, _ = args_of(source)
    length = max(len(outer), len(inner))
    sums = [sum(both) for both in zip(*([*p, *[0] * (length - len(p))] for p in (inner, outer)), strict=True)]
    return replace_by(node, call(aten.constant_pad_nd.default, x, sums, value), source)


TABLE: Mapping[Any, Respell] = {
    aten.convolution.default: convolution,
    aten.constant_pad_nd.default: pad,
}


@dataclass(frozen=True)
class MergePads(OpPass):
    """Let convolutions pad by themselves."""

    name: ClassVar[str] = "merge_pads"
    numerics: ClassVar[Numerics] = Numerics.ROUNDS
    table: ClassVar[Mapping[Any, Respell]] = TABLE
