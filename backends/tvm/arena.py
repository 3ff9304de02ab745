"""Places in one block of memory for buffers that live at different times: as little of it as possible.

pack(spans) = offsets       spans that overlap in time do not overlap in memory;  bound <= total
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """`size` bytes that are needed from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: Span) -> bool:
        """Whether both are needed at some step."""
        return self.first <= other.last and other.first <= self.last


def pack(spans: Sequence[Span], alignment: int = 64) -> tuple[list[int], int]:
    """(offset of each span, size of the block): the better of two orders, each put where it fits lowest."""
    by_size = sorted(range(len(spans)), key=lambda i: (-spans[i].size, spans[i].first))
    by_area = sorted(range(len(spans)), key=lambda i: (-spans[i].size * (1 + spans[i].last - spans[i].first), i))
    return min((_fill(spans, order, alignment) for order in (by_size, by_area)), key=lambda found: found[1])


def bound(spans: Sequence[Span]) -> int:
    """Bytes that are needed at the busiest step: no packing takes less."""
    return max((sum(s.size for s in spans if s.first <= t <= s.last) for t in {s.first for s in spans}), default=0)


def _fill(spans: Sequence[Span], order: Sequence[int], alignment: int) -> tuple[list[int], int]:
    offsets = [0] * len(spans)
    placed: list[int] = []
    for i in order:
        taken = sorted((offsets[j], offsets[j] + spans[j].size) for j in placed if spans[j].meets(spans[i]))
        at = 0
        for start, stop in taken:
            if at + spans[i].size <= start:
                break
            at = max(at, -(-stop // alignment) * alignment)
        offsets[i] = at
        placed.append(i)
    return offsets, max((o + s.size for o, s in zip(offsets, spans, strict=True)), default=0)
