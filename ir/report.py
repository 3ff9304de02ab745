"""What a pass did: every site applied, every site refused with its reason, and what it cost.

Plain data without torch, so that the manifest can store it and `planish inspect` can show it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Site:
    """One candidate of a rule: applied, or refused with a reason (`reason` is None when applied)."""

    rule: str
    node: str
    op: str
    layers: tuple[str, ...]
    reason: str | None = None
    error: float | None = None
    """With verify=True: the largest relative error against float64 at the site's boundary."""


@dataclass(frozen=True)
class PassReport:
    """One pass over one Program."""

    name: str
    applied: tuple[Site, ...] = ()
    refused: tuple[Site, ...] = ()
    nodes_before: int = 0
    nodes_after: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> PassReport:
        """Inverse of `to_json`."""
        sites = {k: tuple(Site(**{**s, "layers": tuple(s["layers"])}) for s in data[k]) for k in ("applied", "refused")}
        return PassReport(**{**data, **sites})
