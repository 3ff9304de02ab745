"""Winners of the search against the kernels they would replace, inside the network: who loses is put back.

kept = { task : seconds of its calls in the tuned network < seconds of its calls in the untuned one }

Alone a kernel has the caches to itself; in the network it finds what others left there. The networks are timed in
alternation, and in the end the whole tuned network against the whole untuned one: it is never slower.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from math import inf
from typing import Protocol, TypeVar

T = TypeVar("T")

LEAST, FEWEST, MOST = 3, 9, 100
"""Alternations: when time is up, at least, at most."""

SECONDS = 1.5
"""How long to alternate, if the fewest alternations are done by then."""


class Network(Protocol):
    """A compiled model with inputs to run it on."""

    def run(self) -> float:
        """Seconds of one run."""

    def by_task(self) -> Mapping[str, float]:
        """Seconds in one run of the calls of each task, by the task's key."""


Quiet = Callable[[], AbstractContextManager[object]]
"""Keeps other tuners of this machine from measuring or compiling meanwhile."""


def losers(untuned: Network, tuned: Network, keys: Sequence[str], quiet: Quiet, left: float = inf) -> list[str]:
    """Tasks among `keys` that are not faster in the tuned network; `left` are the seconds that may be spent."""
    with quiet():
        pairs = list(alternate(untuned.by_task, tuned.by_task, left))
    return [key for key in keys if _gain([(before[key], after[key]) for before, after in pairs]) <= 0]


def compare(untuned: Network, tuned: Network, quiet: Quiet, left: float = inf) -> tuple[float, float]:
    """Median seconds of a run of both; the second is the larger exactly if the tuned one is not faster."""
    with quiet():
        untuned.run(), tuned.run()
        return medians(list(alternate(untuned.run, tuned.run, left)))


def medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Seconds of both; the second is the larger exactly if its network is not faster."""
    before = statistics.median(before for before, _ in pairs)
    return before, before * (1 - _gain(pairs))


def _gain(pairs: Sequence[tuple[float, float]]) -> float:
    """The share of time that is won: neighbours in time are compared, since the speed of a machine drifts."""
    return statistics.median(1 - after / before for before, after in pairs)


def alternate(first: Callable[[], T], second: Callable[[], T], left: float) -> Iterator[tuple[T, T]]:
    """Results of both, the one that goes first changing."""
    began = time.monotonic()
    for number in range(MOST):
        spent = time.monotonic() - began
        if (number >= FEWEST and spent >= SECONDS) or (number >= LEAST and spent >= left):
            return
        if number % 2:
            after = second()
            yield first(), after
        else:
            yield first(), second()
