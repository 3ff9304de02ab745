"""The ledger: every site applied and what it saved, every site refused with its reason, and what looking cost.

    saved(pass) == sum over its sites == parameters and operations before it - those after it

Plain data without torch, so that the manifest can store it and `planish inspect` can show it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from .fidelity import Fidelity


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
    parameters: int = 0
    """Elements of constants saved, negative where a rewrite adds some."""
    flops: int = 0
    """Floating-point operations of one run saved, as `cost` counts them."""


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
        """Plain dicts and lists, with the totals of the sites."""
        return {**asdict(self), "saved": saved([self])}

    @staticmethod
    def from_json(data: dict[str, Any]) -> PassReport:
        """Inverse of `to_json`."""
        sites = {k: tuple(Site(**{**s, "layers": tuple(s["layers"])}) for s in data[k]) for k in ("applied", "refused")}
        return PassReport(**{**{k: v for k, v in data.items() if k != "saved"}, **sites})


class Report(tuple[PassReport, ...]):
    """What each pass did; and what integers cost, if the model was compiled to integers."""

    fidelity: Fidelity | None = None

    @staticmethod
    def from_json(report: Iterable[dict[str, Any]], fidelity: dict[str, Any] | None = None) -> Report:
        """What a manifest holds."""
        made = Report(PassReport.from_json(entry) for entry in report)
        made.fidelity = None if fidelity is None else Fidelity.from_json(fidelity)
        return made


def saved(report: Iterable[PassReport]) -> dict[str, Any]:
    """What passes saved in all; `error` is the largest that was measured at a site, None if none was."""
    sites = [site for entry in report for site in entry.applied]
    errors = [site.error for site in sites if site.error is not None]
    return {
        "parameters": sum(site.parameters for site in sites),
        "flops": sum(site.flops for site in sites),
        "error": max(errors, default=None),
    }
