"""Compiling with tuning for a device elsewhere: compiled here, measured there.

tuned_elsewhere(make, target, address, seconds) takes what `database` knows of the device's CPU, and what it learns

Which tasks matter is estimated from their arithmetic and their bytes. Kernels that win alone are confirmed in the whole
network, which runs on the device: with all of them, or with those halves of them that make it faster.
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
from .confirm import medians
from .database import Database, Record
from .rpc import RemoteMeasurer
from .rpc_network import Whole, whole_of
from .search import Standing
from .spaces import Option, Tunable
from .tuner import Build, Known, Summary, Tasks, Tuner, Winners
from .workshop import CodeWorkshop

if TYPE_CHECKING:
    from .session import Tuning

FLOPS, BYTES = 5e10, 1e10
"""What a core computes and a machine moves in a second, roughly: only the order of tasks depends on it."""

Make = Callable[[Chooser, Summary], Compiled]
Compare = Callable[[Whole, Whole, float], list[tuple[float, float]]]
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

        tasks, started = Tasks(measurer.machine), time.monotonic()
        untuned = Estimate(make(tasks, Summary()).steps, tasks.of_output, target.threads)
        building = time.monotonic() - started
        workshop = CodeWorkshop(measurer, pool, shared_cache())
        tuner = RemoteTuner(
            *(TEMPLATES, workshop, database, contextlib.nullcontext, measurer.machine, tuning.metaschedule),
            default=tasks,
            network=lambda choose: whole_of(make(choose, Summary())),
            compare=measurer.compare,
        )
        choose, summary = tuner.tune(_never, untuned, tasks, seconds, report, building)
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


class RemoteTuner(Tuner):
    """A tuner whose networks run on the device, both in one session; their kernels cannot be watched from here."""

    def __init__(self, *args: Any, default: Chooser, network: Callable[[Chooser], Whole], compare: Compare) -> None:
        """`network` builds one, `default` decides on the untuned one, `compare` runs two in alternation."""
        super().__init__(*args)
        self._default, self._network, self._compare = default, network, compare

    def _confirm(
        self,
        build: Build,
        untuned: object,
        winners: dict[str, tuple[Option, Record]],
        tunables: Mapping[str, Tunable],
        summary: Summary,
        until: float,
    ) -> Winners | None:
        """Winners that make the network faster: all, or those halves that do; one that does not is put back."""
        if not winners:
            return None
        groups, now, ratio = [_by_gain(winners, tunables)], self._network(self._default), 1.0
        kept: Winners | None = None
        while groups and (summary.untuned_ms is None or time.monotonic() < until):
            group = groups.pop(0)
            options = {**(kept.options if kept else {}), **{key: winners[key] for key in group}}
            choose = Winners(options, self._machine)
            network = self._network(choose)
            before, after = medians(self._compare(now, network, max(0.0, until - time.monotonic())))
            summary.untuned_ms = summary.untuned_ms or 1e3 * before
            if after < before:
                kept, now, ratio = choose, network, ratio * after / before
            elif len(group) > 1:
                groups[:0] = [group[: len(group) // 2], group[len(group) // 2 :]]
            else:
                self._put_back(tunables[group[0]], *winners[group[0]])
                summary.put_back += 1
        summary.tuned_ms = summary.untuned_ms and ratio * summary.untuned_ms
        return kept


def _by_gain(winners: Mapping[str, tuple[Option, Record]], tunables: Mapping[str, Tunable]) -> list[str]:
    """Keys, those first that should win most."""

    def gain(key: str) -> float:
        record = winners[key][1]
        return tunables[key].seconds * (1 - record.seconds / record.default_seconds)

    return sorted(winners, key=gain, reverse=True)


def _never(choose: Chooser) -> Any:
    raise AssertionError("networks run on the device")
