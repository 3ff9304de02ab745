"""Where the time goes: one row for each kernel call, by layer, beside what the machine can do at most.

of_peak = (operations / time) / (operations / time of multiply-adds in registers alone, same machine, same threads)
outside = 1 - sum(row.milliseconds) / profile.milliseconds          what no kernel accounts for

Operations are those of the definition: Winograd's kernels, which do fewer, may pass 100 %. Each row's time holds
about a microsecond of the observer's own.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .limits import Limits


@dataclass(frozen=True)
class Row:
    """One call of a kernel: the median time, and what is known of the step."""

    region: str
    kind: str
    layers: tuple[str, ...]
    template: str
    symbol: str
    milliseconds: float
    gflops: float
    """Achieved GFLOP/s; 0 where the step's operations were not counted."""
    choice: Mapping[str, Any] = field(default_factory=dict)
    """The template's tile and other choices."""
    dtype: str = "float32"
    flops: int = 0
    bytes: int = 0
    """Read and written, each buffer once."""
    gbytes: float = 0.0
    """Achieved GB/s."""
    of_peak: float | None = None
    """Share of the machine's peak in this dtype; None where that was not measured."""

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def where(self) -> str:
        """Layers, or the region where no layer is known."""
        return ", ".join(self.layers) or self.region


@dataclass(frozen=True)
class Total:
    """All calls of one kind."""

    kind: str
    calls: int
    milliseconds: float
    share: float
    """Of the time of all kernels."""
    gflops: float
    of_peak: float | None


@dataclass(frozen=True)
class Profile:
    """Rows in the order of execution, and the median time of a whole call that nobody observes."""

    rows: tuple[Row, ...]
    milliseconds: float
    runs: int
    limits: Limits | None = None
    threads: int = 1

    @property
    def outside(self) -> float:
        """Share of a call that is spent outside kernels: in the virtual machine and on the way into it."""
        return max(0.0, 1 - sum(row.milliseconds for row in self.rows) / self.milliseconds)

    @property
    def totals(self) -> tuple[Total, ...]:
        """By kind, slowest first."""
        kinds = dict.fromkeys(row.kind for row in self.rows)
        made = (self._total(kind, [row for row in self.rows if row.kind == kind]) for kind in kinds)
        return tuple(sorted(made, key=lambda total: -total.milliseconds))

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return {**asdict(self), "outside": self.outside, "totals": [asdict(total) for total in self.totals]}

    def roofline(self, path: str | os.PathLike[str]) -> None:
        """Draw every call under the machine's roof: an .svg, .png or .pdf file. Needs `planish[report]`."""
        from .roofline import draw

        draw(self, path)

    def __str__(self) -> str:
        """A table, slowest first, then by kind."""
        from .profile_text import table

        return table(self)

    def _total(self, kind: str, rows: Sequence[Row]) -> Total:
        milliseconds = sum(row.milliseconds for row in rows)
        ideal = [row.milliseconds * row.of_peak for row in rows if row.of_peak is not None]
        whole = sum(row.milliseconds for row in self.rows)
        of_peak = sum(ideal) / milliseconds if len(ideal) == len(rows) and milliseconds else None
        gflops = sum(row.flops for row in rows) / milliseconds / 1e6 if milliseconds else 0.0
        return Total(kind, len(rows), milliseconds, milliseconds / whole if whole else 0.0, gflops, of_peak)


class Observer:
    """Times each kernel call of one run; given to the virtual machine as its instrument."""

    def __init__(self, symbols: frozenset[str]) -> None:
        """Only calls of `symbols` count; the others are the machine's own."""
        self.symbols = symbols
        self._seconds: list[float] = []
        self._start = 0.0

    def __call__(self, _function: Any, name: str, before: bool, *_rest: Any) -> int:
        """Called around each instruction; 0 lets it run."""
        now = time.perf_counter()
        if name in self.symbols:
            if before:
                self._start = time.perf_counter()
            else:
                self._seconds.append(now - self._start)
        return 0

    def take(self) -> list[float]:
        """Seconds of the calls since the last time."""
        taken, self._seconds = self._seconds, []
        return taken


def measure(
    observed: Callable[[Observer], Callable[[], Any]],
    calls: Mapping[str, Any],
    runs: int,
    plain: Callable[[], Any] | None = None,
    limits: Limits | None = None,
    threads: int = 1,
) -> Profile:
    """Median times of `runs` observed calls, in turns with plain ones; without these the observed call is the whole."""
    steps = [step for step in calls["steps"] if step["symbol"]]
    observer = Observer(frozenset(step["symbol"] for step in steps))
    run = observed(observer)
    walls, columns = [], []
    for turn in range(runs + 1):
        wall = _seconds(run)
        column = observer.take()
        assert len(column) == len(steps), "a kernel call was not seen"
        if plain is not None:
            wall = _seconds(plain)
        if turn:  # the first warms up
            walls.append(wall)
            columns.append(column)
    medians = [statistics.median(times) for times in zip(*columns, strict=True)]
    rows = tuple(_row(s, calls["kernels"], seconds, limits) for s, seconds in zip(steps, medians, strict=True))
    return Profile(rows, 1e3 * statistics.median(walls), runs, limits, threads)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _row(step: Mapping[str, Any], kernels: Mapping[str, Any], seconds: float, limits: Limits | None) -> Row:
    kernel, dtype = kernels[step["symbol"]], step["dtype"]
    per_second = 1e-9 / max(seconds, 1e-9)
    gflops = step["flops"] * per_second
    peak = limits.gflops.get(dtype) if limits is not None and step["flops"] else None
    return Row(
        region=step["region"],
        kind=step["kind"],
        layers=tuple(step["layers"]),
        template=kernel["template"],
        symbol=step["symbol"],
        milliseconds=1e3 * seconds,
        gflops=gflops,
        choice=dict(kernel["choice"]),
        dtype=dtype,
        flops=step["flops"],
        bytes=step["bytes"],
        gbytes=step["bytes"] * per_second,
        of_peak=gflops / peak if peak else None,
    )
