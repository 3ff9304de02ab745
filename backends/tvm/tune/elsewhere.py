"""Compiling with tuning for a device elsewhere: compiled here, measured there.

tuned_elsewhere(make, target, address, seconds) takes what `database` knows of the device's CPU, and what it learns

The network itself does not run on the device while it is tuned: which tasks matter is estimated from their arithmetic
and their bytes, and a kernel wins that is faster than the default alone, its weights out of the caches.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..build import shared_cache
from ..kernels.templates import TEMPLATES
from ..runtime import Compiled
from ..target import Target
from ..template import Chooser
from ..worker import shared_pool
from .database import Database, Record
from .rpc import RemoteMeasurer
from .search import Standing
from .spaces import Option, Tunable
from .tuner import Build, Known, Summary, Tasks, Tuner, Winners
from .workshop import CodeWorkshop

if TYPE_CHECKING:
    from .session import Tuning

FLOPS, BYTES = 5e10, 1e10
"""What a core computes and a machine moves in a second, roughly: only the order of tasks depends on it."""

Make = Callable[[Chooser, Summary], Compiled]
Progress = Callable[[str, int, int], None]


def tuned_elsewhere(make: Make, target: Target, tuning: Tuning, database: Database, progress: Progress) -> Compiled:
    """Compile with the best kernels that are known of the device, or found in time."""
    assert tuning.rpc is not None
    pool, seconds = shared_pool(), tuning.seconds
    with RemoteMeasurer(tuning.rpc, target, pool) as measurer:
        if not seconds:
            known = Known(database, TEMPLATES, measurer.machine)
            return make(known, known.summary)
        began = time.monotonic()

        def report(standing: Standing) -> None:
            gain = 100 * standing.won / max(standing.total, 1e-9)
            progress(f"tuning: {gain:.1f} % less time so far", round(time.monotonic() - began), round(seconds))

        tasks = Tasks(measurer.machine)
        untuned = Estimate(make(tasks, Summary()).steps, tasks.of_output, target.threads)
        workshop = CodeWorkshop(measurer, pool, shared_cache())
        tuner = _Tuner(TEMPLATES, workshop, database, contextlib.nullcontext, measurer.machine, tuning.metaschedule)
        choose, summary = tuner.tune(_never, untuned, tasks, seconds, report)
    return make(choose, summary)


class Estimate:
    """A network that is not run: what its tasks would take."""

    def __init__(self, steps: Sequence[Mapping[str, Any]], task_of: Mapping[str, str], threads: int) -> None:
        """`task_of` has, for each value that a task makes, the task's key."""
        self._seconds: dict[str, float] = {}
        for step in steps:
            if step["symbol"] and (key := task_of.get(step["output"])) is not None:
                needed = max(step["flops"] / (FLOPS * threads), step["bytes"] / BYTES)
                self._seconds[key] = self._seconds.get(key, 0.0) + needed

    def run(self) -> float:
        """Seconds of one run."""
        return float(sum(self._seconds.values()))

    def by_task(self) -> Mapping[str, float]:
        """Seconds of each task's calls."""
        return self._seconds


class _Tuner(Tuner):
    """A tuner that takes winners as they are."""

    def _confirm(
        self,
        build: Build,
        untuned: object,
        winners: dict[str, tuple[Option, Record]],
        tunables: Mapping[str, Tunable],
        summary: Summary,
        until: float,
    ) -> Winners | None:
        return Winners(winners, self._machine) if winners else None


def _never(choose: Chooser) -> Any:
    raise AssertionError("nothing is confirmed")
