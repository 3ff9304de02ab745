"""A comparison as a picture: for each case, every peer's median as a multiple of planish's, quartiles as whiskers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .measure import Measured

COLOURS = {
    "planish": "#4269d0",
    "openvino": "#efb118",
    "onnxruntime": "#ff725c",
    "inductor": "#6cc5b0",
    "eager": "#9c9c9c",
}


def factors(results: Sequence[Sequence[Measured]], path: Path, title: str) -> None:
    """Bars to the right of 1 are slower than planish. The same figures give the same file."""
    groups = [group for group in results if _ours(group) is not None]
    engines = [m.case.engine for m in groups[0] if m.case.engine in COLOURS]
    height = 0.8 / len(engines)
    figure = Figure(figsize=(8, 0.8 + 0.22 * len(groups) * len(engines)), layout="constrained")
    axes = figure.add_subplot()
    for number, engine in enumerate(engines):
        for place, group in enumerate(groups):
            _bar(axes, place + number * height, height, engine, group)
        axes.barh([0], [0], color=COLOURS[engine], label=engine)
    axes.axvline(1, color="#444444", linewidth=0.8)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(groups))], [g[0].case.model for g in groups])
    axes.invert_yaxis()
    axes.set(xlabel="time / planish's time", title=title)
    axes.legend(frameon=False, fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "planish", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _bar(axes: Any, place: float, height: float, engine: str, group: Sequence[Measured]) -> None:
    ours = _ours(group)
    measured = next((m for m in group if m.case.engine == engine and m.ms), None)
    if measured is None or ours is None:
        return
    low, median, high = (value / ours.median for value in measured.quartiles)
    whiskers = [[median - low], [high - median]]
    axes.barh(place, median, height, xerr=whiskers, color=COLOURS[engine], error_kw={"elinewidth": 0.8})


def _ours(group: Sequence[Measured]) -> Measured | None:
    return next((m for m in group if m.case.engine == "planish" and m.ms), None)
