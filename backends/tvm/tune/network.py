"""A compiled model as tuning sees it: what a run takes, and what of that each task takes.

sum(network.by_task().values()) <= network.run()
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from ..runtime import Compiled


class CompiledNetwork:
    """A model with the self-test's inputs."""

    def __init__(self, compiled: Compiled, task_of: Mapping[str, str]) -> None:
        """`task_of` has, for each value that a task makes, the task's key; the tasks' layouts are all networks' own."""
        self.compiled = compiled
        steps = (step for step in compiled.steps if step["symbol"])
        self._keys = [task_of.get(step["output"]) for step in steps]
        self._arguments = compiled.seeded_arguments()

    def run(self) -> float:
        """Seconds of one run."""
        start = time.perf_counter()
        self.compiled.run_arguments(self._arguments)
        return time.perf_counter() - start

    def by_task(self) -> Mapping[str, float]:
        """Seconds in one run of the calls of each task; what converts layouts belongs to none."""
        seconds: Counter[str] = Counter()
        rows = self.compiled.profile_arguments(self._arguments, runs=1).rows
        for key, row in zip(self._keys, rows, strict=True):
            if key is not None:
                seconds[key] += row.milliseconds / 1e3  # type: ignore[assignment]
        return seconds
