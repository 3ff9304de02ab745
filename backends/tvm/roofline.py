"""A profile as a picture: each kernel call under the machine's roof.

roof(x) = min(peak, memory * x)      x = operations a byte; a point's area is its time

matplotlib is imported when something is drawn; the extra `planish[report]` brings it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ...errors import MissingDependencyError, OptionError, PlanishError

if TYPE_CHECKING:
    from .limits import Limits
    from .profile import Profile, Row

KINDS = (".svg", ".png", ".pdf")
LABELS = 8
"""Calls that are named: the slowest."""

_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e")


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raise OptionError unless the name ends like a picture's."""
    if not str(path).lower().endswith(KINDS):
        raise OptionError(f"{path} is no kind of picture that is known.", f"End its name in {', '.join(KINDS)}.")


def draw(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write the picture; the file's ending says its kind."""
    check_picture(path)
    rows = [row for row in profile.rows if row.flops and row.bytes]
    if profile.limits is None or not rows:
        raise PlanishError("There is no roofline of this profile.", "It needs probes and operations in the artifact.")
    figure = _figure()
    axes = figure.add_subplot()
    span = [min(row.intensity for row in rows) / 2, max(row.intensity for row in rows) * 2]
    _roofs(axes, profile.limits, span, {row.dtype for row in rows})
    _points(axes, rows)
    axes.set(xscale="log", yscale="log", xlim=span, xlabel="operations a byte", ylabel="GFLOP/s")
    axes.set_title(f"{profile.milliseconds:.2f} ms a call, {profile.threads} thread(s)", loc="left")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None} if str(path).lower().endswith(".svg") else None)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "matplotlib is not installed; it draws rooflines.", "Install the extra: pip install 'planish[report]'"
        ) from None
    return Figure(figsize=(9, 6), layout="constrained")


def _roofs(axes: Any, limits: Limits, span: list[float], dtypes: set[str]) -> None:
    """Memory's slope up to each dtype's peak."""
    for dtype in sorted(dtypes & set(limits.gflops)):
        peak = limits.gflops[dtype]
        knee = min(max(peak / limits.gbytes, span[0]), span[1])
        ends = [span[0], knee, span[1]]
        axes.plot(ends, [limits.roof(dtype, x) for x in ends], color="#444444", linewidth=1.2, zorder=1)
        axes.annotate(f"{dtype} {peak:.0f} GFLOP/s", (span[1], peak), ha="right", va="bottom", fontsize=8)
    low = span[0] * 1.3
    axes.annotate(f"memory {limits.gbytes:.0f} GB/s", (low, limits.gbytes * low), fontsize=8, va="top")


def _points(axes: Any, rows: list[Row]) -> None:
    whole = sum(row.milliseconds for row in rows)
    for number, kind in enumerate(dict.fromkeys(row.kind for row in rows)):
        chosen = [row for row in rows if row.kind == kind]
        axes.scatter(
            [row.intensity for row in chosen],
            [row.gflops for row in chosen],
            s=[20 + 2000 * row.milliseconds / whole for row in chosen],
            color=_COLOURS[number % len(_COLOURS)],
            alpha=0.65,
            label=kind,
            zorder=2,
        )
    for row in sorted(rows, key=lambda r: -r.milliseconds)[:LABELS]:
        place = (row.intensity, row.gflops)
        axes.annotate(row.where.split(", ")[0], place, xytext=(4, 4), textcoords="offset points", fontsize=7)
