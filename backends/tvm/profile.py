"""Where the time goes: one row for each kernel call, by layer.

sum(row.milliseconds) <= profile.milliseconds      (the rest is the virtual machine's and the observer's)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One call of a kernel: the median time and what is known of the step."""

    region: str
    kind: str
    layers: tuple[str, ...]
    template: str
    symbol: str
    milliseconds: float
    gflops: float
    """Achieved GFLOP/s; 0 where the step's operations were not counted."""


@dataclass(frozen=True)
class Profile:
    """Rows in the order of execution, and the median time of a whole observed call."""

    rows: tuple[Row, ...]
    milliseconds: float
    runs: int

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)

    def __str__(self) -> str:
        """A table, slowest first."""
        total = sum(row.milliseconds for row in self.rows) or 1.0
        lines = [f"{'ms':>9} {'%':>5} {'GFLOP/s':>8}  {'kind':<10} {'template':<14} layers"]
        for row in sorted(self.rows, key=lambda r: -r.milliseconds):
            share = 100 * row.milliseconds / total
            where = ", ".join(row.layers) or row.region
            lines.append(
                f"{row.milliseconds:9.4f} {share:5.1f} {row.gflops:8.1f}  {row.kind:<10} {row.template:<14} {where}"
            )
        lines.append(f"{self.milliseconds:9.4f} ms in all, {len(self.rows)} kernel calls, median of {self.runs} runs")
        return "\n".join(lines)


class Observer:
    """Times each kernel call of one run; given to the virtual machine as its instrument."""

    def __init__(self, symbols: frozenset[str]) -> None:
        """Only calls of `symbols` count; the others are the machine's own."""
        self.symbols = symbols
        self.seconds: list[float] = []
        self._start = 0.0

    def __call__(self, _function: Any, name: str, before: bool, *_rest: Any) -> int:
        """Called around each instruction; 0 lets it run."""
        now = time.perf_counter()
        if name in self.symbols:
            if before:
                self._start = time.perf_counter()
            else:
                self.seconds.append(now - self._start)
        return 0


def measure(run: Callable[[Observer], Any], calls: Mapping[str, Any], runs: int) -> Profile:
    """Observe `runs` calls and put the medians beside the steps of the call table."""
    steps = [step for step in calls["steps"] if step["symbol"]]
    symbols = frozenset(step["symbol"] for step in steps)
    walls, columns = [], []
    for _ in range(runs):
        observer = Observer(symbols)
        start = time.perf_counter()
        run(observer)
        walls.append(time.perf_counter() - start)
        columns.append(observer.seconds)
    assert all(len(column) == len(steps) for column in columns), "a kernel call was not seen"
    medians = [statistics.median(times) for times in zip(*columns, strict=True)]
    rows = tuple(_row(step, calls["kernels"], seconds) for step, seconds in zip(steps, medians, strict=True))
    return Profile(rows, 1e3 * statistics.median(walls), runs)


def _row(step: Mapping[str, Any], kernels: Mapping[str, Any], seconds: float) -> Row:
    layers: Sequence[str] = step["layers"]
    rate = step["flops"] / seconds / 1e9 if seconds > 0 else 0.0
    template = kernels[step["symbol"]]["template"]
    return Row(step["region"], step["kind"], tuple(layers), template, step["symbol"], 1e3 * seconds, rate)
