"""Winners of the search against the kernels they would replace, inside the network: who loses is put back.

kept = { task : seconds of its calls in the tuned network < seconds of its calls in the untuned one }

Alone a kernel has the caches to itself; in the network it finds what others left there. The networks are timed in
alternation, and in the end the whole tuned network against the whole untuned one: it is never slower.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

ROUNDS = 7
"""Alternations; medians are taken over them."""


class Network(Protocol):
    """A compiled model with inputs to run it on."""

    def run(self) -> float:
        """Seconds of one run."""

    def by_task(self) -> Mapping[str, float]:
        """Seconds in one run of the calls of each task, by the task's key."""


Quiet = Callable[[], AbstractContextManager[object]]
"""Keeps other tuners of this machine from measuring or compiling meanwhile."""


def losers(untuned: Network, tuned: Network, keys: Sequence[str], quiet: Quiet, rounds: int = ROUNDS) -> list[str]:
    """Tasks among `keys` that are not faster in the tuned network."""
    before: list[Mapping[str, float]] = []
    after: list[Mapping[str, float]] = []
    with quiet():
        for number in range(rounds):
            for network, times in _alternate((untuned, before), (tuned, after), number):
                times.append(network.by_task())
    return [key for key in keys if _median(after, key) >= _median(before, key)]


def compare(untuned: Network, tuned: Network, quiet: Quiet, rounds: int = 3 * ROUNDS) -> tuple[float, float]:
    """Seconds of a run of both, medians of alternating runs."""
    before: list[float] = []
    after: list[float] = []
    with quiet():
        for number in range(-1, rounds):  # the first two runs warm up
            for network, times in _alternate((untuned, before), (tuned, after), number):
                seconds = network.run()
                if number >= 0:
                    times.append(seconds)
    return statistics.median(before), statistics.median(after)


T = TypeVar("T")


def _alternate(first: T, second: T, number: int) -> tuple[T, T]:
    """Both, the one that goes first changing."""
    return (first, second) if number % 2 == 0 else (second, first)


def _median(runs: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)
