"""One case by several engines, in turns: what every benchmark is made of.

compare(case, engines) = [Measured(engine, milliseconds of every call, seconds to get ready, error, memory)]
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .case import Case
from .engines import engine
from .processes import Worker, WorkerFailed, ready, take_turns


@dataclass
class Measured:
    """What became of one case: milliseconds of each instance's calls and further figures, or why there are none."""

    case: Case
    ms: list[list[float]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    refused: str = ""
    failed: str = ""

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Milliseconds of a call over all slices and instances."""
        low, median, high = statistics.quantiles([t for times in self.ms for t in times], n=4, method="inclusive")
        return low, median, high

    @property
    def median(self) -> float:
        """The figure that is compared; 0 where there is none."""
        return self.quartiles[1] if self.ms else 0.0

    @property
    def per_second(self) -> float:
        """Samples a second of all instances together."""
        return sum(1e3 * self.case.batch / statistics.median(times) for times in self.ms)

    def to_json(self) -> dict[str, Any]:
        """A plain dict without the single times."""
        known: dict[str, Any] = {**asdict(self.case), **self.figures}
        if not self.ms:
            return {**known, "refused": self.refused, "failed": self.failed}
        low, median, high = self.quartiles
        calls = sum(len(times) for times in self.ms)
        return {
            **known, "low_ms": low, "median_ms": median, "high_ms": high, "calls": calls, "per_second": self.per_second,
        }  # fmt: skip


def compare(
    case: Case, engines: Sequence[str], work: Path, rounds: int, seconds: float, instances: int = 1
) -> list[Measured]:
    """Each engine in processes of its own; see `in_turns`."""
    return in_turns([replace(case, engine=name) for name in engines], work, rounds, seconds, instances)


def in_turns(cases: Sequence[Case], work: Path, rounds: int, seconds: float, instances: int = 1) -> list[Measured]:
    """Each case in processes of its own; all are ready before the first slice.

    With several instances a case has that many processes, each on a core of its own, which measure together.
    """
    found, groups = [], []
    for case in cases:
        measured = Measured(case)
        found.append(measured)
        workers = _ready(measured, work, instances)
        if workers:
            groups.append((measured, workers))
    try:
        times = take_turns([workers for _, workers in groups], rounds, seconds)
        for (measured, workers), slices in zip(groups, times, strict=True):
            measured.ms = slices
            workers[0].ask("memory")
            measured.figures |= workers[0].answer()
    finally:
        for _, workers in groups:
            for worker in workers:
                worker.close()
    return found


def _ready(measured: Measured, work: Path, instances: int) -> list[Worker]:
    """Loaded workers, or none and the reason in `measured`."""
    case = measured.case
    measured.refused = engine(case.engine).refuses(case) or ""
    if measured.refused:
        return []
    print(f"{case.model}: {case.engine} gets ready", file=sys.stderr, flush=True)
    workers: list[Worker] = []
    try:
        for core in range(instances):
            worker, figures = ready(case, work, () if instances == 1 else (core,))
            workers.append(worker)
            measured.figures |= figures
    except WorkerFailed as failure:
        measured.failed = str(failure)
        for worker in workers:
            worker.close()
        return []
    return workers
