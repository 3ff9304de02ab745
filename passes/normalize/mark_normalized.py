"""mark_normalized: the program is spelled in one way; from here on passes may rely on it.

    p == p

Conditions:
- the verifier finds no op that has another spelling; it runs on the result of every pass, so here too.

Before:
    program(%x: f32[2, 3]) {
      %y: f32[2, 3] = relu(%x)
      return %y
    }

After:
    program(%x: f32[2, 3]) normalized {
      %y: f32[2, 3] = relu(%x)
      return %y
    }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.program import Stage
from ..base import Numerics, Pass


@dataclass(frozen=True)
class MarkNormalized(Pass):
    """Promise stage NORMALIZED."""

    name: ClassVar[str] = "mark_normalized"
    requires: ClassVar[Stage] = Stage.CAPTURED
    ensures: ClassVar[Stage | None] = Stage.NORMALIZED
    numerics: ClassVar[Numerics] = Numerics.EXACT
