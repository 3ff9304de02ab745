"""What a backend is: it says of each node whether it can run it, and turns a Program into something callable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import fx

from ..ir.program import Program


@dataclass(frozen=True)
class Refused:
    """Why a backend cannot run a node (one clause)."""

    reason: str


class Backend(Protocol):
    """One way to run Programs."""

    name: str

    def supports(self, node: fx.Node) -> Refused | None:
        """None if the node of a NORMALIZED graph can run here."""

    def compile(self, program: Program, **options: Any) -> Any:
        """A callable over nested inputs, from a GROUPED Program."""
