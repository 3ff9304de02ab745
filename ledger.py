"""The ledger in words: what each pass did, site by site, and what that saved. No torch.

totals == sum over passes == sum over sites
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .ir.report import PassReport, Report, Site, saved

RESPELLING = ("canonicalize_", "decompose_", "remove_", "merge_pads", "merge_views", "lift_", "mark_", "group_")
"""Passes that change how a program is written, not what its weights are: `--json` has their sites."""

COLUMNS = ("pass", "applied", "refused", "nodes", "parameters saved", "MFLOP saved", "error", "seconds")


def reports(manifest: Mapping[str, Any]) -> Report:
    """The reports that a manifest holds."""
    return Report.from_json(manifest["report"], manifest.get("fidelity"))


def rows(report: Sequence[PassReport]) -> Iterator[tuple[str, ...]]:
    """A row for each pass that had anything to do."""
    for entry in report:
        if entry.applied or entry.refused:
            counts = str(len(entry.applied)), str(len(entry.refused)), f"{entry.nodes_before} → {entry.nodes_after}"
            yield entry.name, *counts, *_figures([entry]), f"{entry.seconds:.3f}"


def totals(report: Sequence[PassReport]) -> Iterator[str]:
    """A sentence on the passes that are no rows, one on the whole pipeline, and what integers cost."""
    if idle := sum(not (entry.applied or entry.refused) for entry in report):
        yield f"{idle} other passes found nothing to do"
    parameters, mflop, error = _figures(report)
    measured = f"; the largest error at a site is {error}" if error else ""
    yield f"saved in all: {parameters or 0} parameters, {mflop or 0} MFLOP a run{measured}"
    if isinstance(report, Report) and report.fidelity is not None:
        yield from report.fidelity.lines()


def sites(report: Sequence[PassReport]) -> Iterator[tuple[str, str, list[str]]]:
    """(rule, verdict, lines) of each rule, applied or refused for one reason; of mere respelling only the refusals."""
    said: set[tuple[str, str, str]] = set()
    for entry in report:
        for (rule, reason), found in _grouped(entry).items():
            if not reason and entry.name.startswith(RESPELLING):
                continue
            found = [site for site in found if not (reason and (rule, reason, _where(site)) in said)]
            if not found:  # a pass that runs again refuses again
                continue
            said.update((rule, reason, _where(site)) for site in found)
            places = dict.fromkeys(_where(site) for site in found)
            lines = [", ".join(places)] if reason else [_where(site) + _gained(entry, site) for site in found]
            yield rule, f"{f'refused: {reason}' if reason else 'applied'} ({len(found)})", lines


def _grouped(entry: PassReport) -> dict[tuple[str, str], list[Site]]:
    """A pass's sites by rule and reason."""
    groups: dict[tuple[str, str], list[Site]] = {}
    for site in [*entry.applied, *entry.refused]:
        groups.setdefault((site.rule, site.reason or ""), []).append(site)
    return groups


def _where(site: Site) -> str:
    """The layers of a site, or its node where no layer is known."""
    return ", ".join(site.layers) or f"({site.node})"


def _gained(entry: PassReport, site: Site) -> str:
    """What was saved at a site, and the error measured there."""
    units = zip(_figures([PassReport(entry.name, (site,))]), (" parameters", " MFLOP", " error"), strict=True)
    said = [f"{figure}{unit}" for figure, unit in units if figure]
    return f": {', '.join(said)}" if said else ""


def _figures(report: Sequence[PassReport]) -> tuple[str, str, str]:
    """Parameters, MFLOP and error as text; nothing where nothing was saved or measured."""
    total = saved(report)
    parameters = f"{total['parameters']:,}" if total["parameters"] else ""
    mflop = f"{total['flops'] / 1e6:,.{3 if abs(total['flops']) >= 500 else 6}f}" if total["flops"] else ""
    return parameters, mflop, "" if total["error"] is None else f"{total['error']:.1e}"
