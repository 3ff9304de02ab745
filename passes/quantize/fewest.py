"""Fewest: which layers have to be in float for a score to be high enough, with few looks at the score.

fewest(order, score, floor) = a part K of order with score(K) >= floor; of what was tried none can be left out

First the length of the shortest prefix of the order (worst first) that is enough, by doubling and bisecting; then what
of it can do without, in halves: a layer stays if the score without it was measured and is too low.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MOST = 32
"""Scores that are looked at, at most: each compiles the model and runs it over somebody's data."""


@dataclass(frozen=True)
class Found:
    """What has to be in float; the score of none and of these, and for each what the score was without it."""

    kept: tuple[int, ...]
    before: float
    after: float
    without: dict[int, float] = field(default_factory=dict)


def fewest(
    order: Sequence[int], score: Callable[[frozenset[int]], float], floor: float, most: int = MOST
) -> Found | None:
    """Search; None if even with all of them the score is too low."""
    known: dict[frozenset[int], float] = {}

    def of(floats: Sequence[int]) -> float:
        key = frozenset(floats)
        if key not in known:
            known[key] = score(key)
        return known[key]

    if of(()) >= floor:
        return Found((), of(()), of(()))
    length = _prefix(order, lambda count: of(order[:count]) >= floor)
    if length is None:
        return None
    kept, without = list(order[:length]), {order[length - 1]: of(order[: length - 1])}
    chunks = _halves(kept[:-1])  # the last is needed: the prefix without it was too low
    while chunks and len(known) < most:
        chunk = chunks.pop()
        rest = [unit for unit in kept if unit not in chunk]
        if of(rest) >= floor:
            kept = rest
        elif len(chunk) > 1:
            chunks += _halves(chunk)
        else:
            without[chunk[0]] = of(rest)
    return Found(tuple(kept), of(()), of(kept), {unit: without[unit] for unit in kept if unit in without})


def _prefix(order: Sequence[int], enough: Callable[[int], bool]) -> int | None:
    """The least length that is enough, taking it that more never are worse."""
    low, high = 0, 1
    while not enough(min(high, len(order))):
        if high >= len(order):
            return None
        low, high = high, 2 * high
    high = min(high, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _halves(chunk: Sequence[int]) -> list[list[int]]:
    """Worst layers first, so that the others are tried first."""
    middle = (len(chunk) + 1) // 2
    return [list(half) for half in (chunk[:middle], chunk[middle:]) if half]
