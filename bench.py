"""Latency of a call: warmed up, repeated, with its spread. No torch.

measure(f) = {median, min, p10, p90, spread = (p90 - p10) / median, ...}, in milliseconds
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .options import Progress


def measure(
    call: Callable[[], Any], repeat: int = 100, warmup: int = 10, seconds: float = 30.0, report: Progress | None = None
) -> dict[str, float | int]:
    """Time `call` at most `repeat` times or for `seconds`, whichever ends first, after `warmup` calls."""
    for _ in range(warmup):
        call()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < repeat and (not times or time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
        if report is not None:
            report("measuring", len(times), repeat)
    return summary(np.asarray(times))


def summary(times: np.ndarray[Any, np.dtype[Any]]) -> dict[str, float | int]:
    """Median, extremes, spread and calls a second of `times` in milliseconds."""
    p10, median, p90 = (float(v) for v in np.percentile(times, [10, 50, 90]))
    return {
        "calls": len(times),
        "median_ms": median,
        "min_ms": float(times.min()),
        "max_ms": float(times.max()),
        "p10_ms": p10,
        "p90_ms": p90,
        "spread": (p90 - p10) / median,
        "per_second": 1e3 / median,
    }
