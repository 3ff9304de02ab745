"""A profile as text: the calls, slowest first, then the kinds, then the machine's limits.

table(profile) is what `print(profile)` shows
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .profile import Profile, Row, Total

ROW_HEAD = ("ms", "%", "GFLOP/s", "of peak", "MB", "GB/s", "kind", "template", "choice", "layers")
TOTAL_HEAD = ("ms", "%", "GFLOP/s", "of peak", "calls", "kind")
_LEFT = ("kind", "template", "choice", "layers")
_LONG = 64


def table(profile: Profile) -> str:
    """All of it."""
    whole = sum(row.milliseconds for row in profile.rows) or 1.0
    slowest = sorted(profile.rows, key=lambda row: -row.milliseconds)
    parts = [
        *columns(ROW_HEAD, [_row(row, whole) for row in slowest]),
        "",
        *columns(TOTAL_HEAD, [_total(total) for total in profile.totals]),
        "",
        _summary(profile),
    ]
    return "\n".join(parts)


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned cells; text to the left, figures to the right."""
    cells = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    sides = ["<" if name in _LEFT else ">" for name in head]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in cells
    ]


def choice_text(choice: Mapping[str, Any]) -> str:
    """The choices of a kernel on one line; what is long, as a schedule is, by its digest."""
    return " ".join(f"{name}={_short(value)}" for name, value in choice.items()) or "-"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONG else f"#{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def percent(share: float | None) -> str:
    """A share, or a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f}"


def _row(row: Row, whole: float) -> tuple[str, ...]:
    figures = (f"{row.milliseconds:.4f}", percent(row.milliseconds / whole), f"{row.gflops:.1f}", percent(row.of_peak))
    moved = (f"{row.bytes / 1e6:.3f}", f"{row.gbytes:.1f}")
    return (*figures, *moved, row.kind, row.template, choice_text(row.choice), row.where)


def _total(total: Total) -> tuple[str, ...]:
    figures = (f"{total.milliseconds:.4f}", percent(total.share), f"{total.gflops:.1f}", percent(total.of_peak))
    return (*figures, str(total.calls), total.kind)


def _summary(profile: Profile) -> str:
    said = (
        f"{profile.milliseconds:.4f} ms a call ({len(profile.rows)} kernel calls, {profile.threads} thread(s), median "
        f"of {profile.runs} runs), {100 * profile.outside:.1f} % of it outside kernels"
    )
    if profile.limits is None:
        return said
    peaks = ", ".join(f"{dtype} {gflops:.0f} GFLOP/s" for dtype, gflops in profile.limits.gflops.items())
    return f"{said}\npeak of this machine, measured now: {peaks}, memory {profile.limits.gbytes:.0f} GB/s"
