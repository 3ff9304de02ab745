"""remove_copies: the copy of a value is the value.

    clone(x) == contiguous(x) == detach(x) == alias(x) == x

Conditions:
- the graph is functional, so nobody writes into the copy; strides are no part of a value (views are spelled
  `reshape`, which works on any).

Before:
    program(%x: f32[2, 3]) {
      %t: f32[3, 2] = permute(%x, [1, 0])
      %c: f32[3, 2] = clone(%t, memory_format=contiguous_format)
      %r: f32[6] = reshape(%c, [6])
      return %r
    }

After:
    program(%x: f32[2, 3]) {
      %t: f32[3, 2] = permute(%x, [1, 0])
      %r: f32[6] = reshape(%t, [6])
      return %r
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ...ir.program import Program
from .spelling import OpPass, Respell, Verdict, args_of, aten, replace_by, value_of


def copy(node: fx.Node, program: Program) -> Verdict:
    """The operand itself."""
    x: fx.Node = args_of(node)[0]
    return replace_by(node, x)


def conjugate(node: fx.Node, program: Program) -> Verdict:
    """The operand itself where it is real."""
    x: fx.Node = args_of(node)[0]
    return None if value_of(x).dtype.is_complex else replace_by(node, x)


TABLE: Mapping[Any, Respell] = {
    **dict.fromkeys(
        (
            aten.clone.default,
            aten.contiguous.default,
            aten.alias.default,
            aten.alias_copy.default,
            aten.detach.default,
            aten.detach_copy.default,
            aten.lift_fresh.default,
            aten.lift_fresh_copy.default,
            aten.positive.default,
        ),
        copy,
    ),
    **dict.fromkeys((aten.resolve_conj.default, aten.resolve_neg.default, aten._conj.default), conjugate),
}


@dataclass(frozen=True)
class RemoveCopies(OpPass):
    """Read the original instead of its copy."""

    name: ClassVar[str] = "remove_copies"
    table: ClassVar[Mapping[Any, Respell]] = TABLE
