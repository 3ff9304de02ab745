"""remove_dead_code: what nobody reads is not computed.

    (f(x), y)  read for y alone  ==  y

Conditions:
- ops with effects stay, except checks of shapes and dtypes, which capture has made true for good.

Before:
    program(%x: f32[2, 3]) {
      %unused: f32[2, 3] = exp(%x)
      %check: none = _assert_tensor_metadata(%x, none, none, f32)
      %y: f32[2, 3] = relu(%x)
      return %y
    }

After:
    program(%x: f32[2, 3]) {
      %y: f32[2, 3] = relu(%x)
      return %y
    }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.program import Program, Stage
from ...ir.report import Site
from ...ir.rewrite import erase_dead
from ..base import Numerics, Pass
from .spelling import aten

STATIC_CHECKS = frozenset(
    {
        aten._assert_tensor_metadata.default,
        aten.sym_constrain_range.default,
        aten.sym_constrain_range_for_size.default,
        aten._functional_sym_constrain_range.default,
    }
)
"""Checks that can only fail at capture: shapes and dtypes are fixed."""


@dataclass(frozen=True)
class RemoveDeadCode(Pass):
    """Drop calls and constants that nobody reads."""

    name: ClassVar[str] = "remove_dead_code"
    requires: ClassVar[Stage] = Stage.CAPTURED
    numerics: ClassVar[Numerics] = Numerics.EXACT

    def run(
        self, program: Program, *, limit: int | None = None, verify: bool = False
    ) -> tuple[Program, list[Site], list[Site]]:
        """Everything at once: a node that is not computed has no numbers to check."""
        if limit == 0:
            return program, [], []
        after, sites = erase_dead(program, STATIC_CHECKS)
        return after, sites, []
