"""What this machine can do at most, found by the probes inside an artifact. Neither torch nor TVM's compiler.

gflops[dtype] = operations / best seconds, in registers alone;   gbytes = bytes / best seconds, from memory
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

REPEAT = 12
"""Calls of each probe, of a few milliseconds; the best counts, for a limit is what can be reached."""

Run = Callable[[str, Sequence[np.ndarray]], None]
"""Call the kernel of a symbol on arrays."""


@dataclass(frozen=True)
class Limits:
    """GFLOP/s by dtype, and GB/s from memory, of all threads together."""

    gflops: Mapping[str, float]
    gbytes: float

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        return asdict(self)

    def roof(self, dtype: str, intensity: float) -> float | None:
        """GFLOP/s that arithmetic in `dtype` can reach at `intensity` operations a byte; None if it is not known."""
        peak = self.gflops.get(dtype)
        return None if peak is None else min(peak, self.gbytes * intensity)


def find(probes: Sequence[Mapping[str, Any]], run: Run) -> Limits | None:
    """Measure every probe of a call table; None if it has none."""
    if not probes:
        return None
    rates = {probe["name"]: probe["amount"] / _best_seconds(probe, run) / 1e9 for probe in probes}
    memory = rates.pop("memory")
    return Limits(rates, memory)


def prepared(probe: Mapping[str, Any], run: Run) -> Callable[[], None]:
    """A call of one probe."""
    # Ones, written: pages of untouched zeros are all the same page, and lie in the cache.
    arrays = [np.ones(shape, dtype) for shape, dtype in probe["arguments"]]
    return lambda: run(probe["symbol"], arrays)


def _best_seconds(probe: Mapping[str, Any], run: Run) -> float:
    call, best = prepared(probe, run), float("inf")
    for _ in range(REPEAT):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
