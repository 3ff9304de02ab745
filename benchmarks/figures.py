"""Measured times to tables: Markdown, one line a case.

factor = fastest peer's median / planish's median      above 1: planish is faster; their geometric mean closes a table

A speed in integers counts only if the engine's error is no larger than that of OpenVINO's model, which NNCF made from
the same calibration data. Others are marked, and no factor is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .measure import Measured

Results = Sequence[Sequence[Measured]]


YARDSTICK = "openvino"
"""The engine whose error in integers nobody may exceed."""
MARK = "less exact than NNCF's"


def counts(measured: Measured, group: Sequence[Measured]) -> bool:
    """Whether a speed counts: not in integers that are less exact than NNCF's, if these were measured."""
    known = _of(group, YARDSTICK)
    if known is None or "sqnr" not in known.figures or "sqnr" not in measured.figures:
        return True
    return measured.figures["sqnr"] >= known.figures["sqnr"]


def best_peer(group: Sequence[Measured]) -> Measured | None:
    """The fastest of the others whose speed counts."""
    peers = [m for m in group if m.case.engine not in ("planish", "peak") and m.ms and counts(m, group)]
    return min(peers, key=lambda m: m.median) if peers else None


def factor(group: Sequence[Measured]) -> float | None:
    """Fastest peer's time over ours."""
    ours, peer = _of(group, "planish"), best_peer(group)
    if ours is None or not ours.ms or peer is None or not counts(ours, group):
        return None
    return peer.median / ours.median


def slower(group: Sequence[Measured]) -> bool:
    """Whether planish loses beyond the spread: its lower quartile lies above the peer's upper one."""
    ours, peer = _of(group, "planish"), best_peer(group)
    return ours is not None and bool(ours.ms) and peer is not None and ours.quartiles[0] > peer.quartiles[2]


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean logarithm."""
    return math.exp(sum(map(math.log, values)) / len(values))


def latency(results: Results) -> str:
    """Milliseconds as median (quartiles), the factor, and how near planish is to the machine's peak."""
    engines = _engines(results)
    rows = [[group[0].case.model, *(_cell(group, e) for e in engines), *_factor_cells(group)] for group in results]
    lines = [_row(["model", *engines, "fastest peer / planish", "of peak"]), "|---" * (len(engines) + 3) + "|"]
    lines += [_row(row) for row in rows]
    factors = [f for group in results if (f := factor(group)) is not None]
    if len(factors) > 1:
        lines.append(_row(["geometric mean", *[""] * len(engines), f"**{geometric_mean(factors):.2f}**", ""]))
    return "\n".join(lines)


def line(group: Sequence[Measured]) -> str:
    """One case as it is shown while the others are measured."""
    cells = [f"{m.case.engine} {cell(m)}" for m in group]
    return f"{group[0].case.model}: " + ", ".join(cells)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join([_row(head), "|---" * len(head) + "|", *map(_row, rows)])


def peak_share(group: Sequence[Measured]) -> float | None:
    """Of the peak that was measured in turns with the engines: planish's operations a second."""
    ours, peak = _of(group, "planish"), _of(group, "peak")
    if ours is None or peak is None or not (ours.ms and peak.ms):
        return None
    return (ours.figures["flops"] / ours.median) / (peak.figures["flops"] / peak.median)


def _factor_cells(group: Sequence[Measured]) -> list[str]:
    ratio, share = factor(group), peak_share(group)
    return ["-" if ratio is None else f"{ratio:.2f}", "-" if share is None else f"{100 * share:.0f} %"]


def _engines(results: Results) -> list[str]:
    return [m.case.engine for m in results[0] if m.case.engine != "peak"]


def _of(group: Sequence[Measured], name: str) -> Measured | None:
    return next((m for m in group if m.case.engine == name), None)


def cell(measured: Measured | None) -> str:
    if measured is None or not measured.ms:
        return "-" if measured is None else measured.refused or measured.failed
    low, median, high = measured.quartiles
    exact = f", {measured.figures['sqnr']:.1f} dB" if "sqnr" in measured.figures else ""
    return f"{median:.2f} ({low:.2f} to {high:.2f}){exact}"


def _cell(group: Sequence[Measured], engine: str) -> str:
    measured = _of(group, engine)
    return cell(measured) if measured is None or counts(measured, group) else f"{cell(measured)}, {MARK}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
