"""Which values share memory: views, results in their operand's place, and parts made inside their concatenation.

    home[v] = (root, offset in bytes)        memory(v) is a range of memory(root)

Two rules keep every value whole until it is read for the last time. A step may overwrite an operand only if nothing
that shares its root is read later. A part may be made inside a concatenation only if its root consists of such
parts. Knows only names and sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

ALIGNMENT = 64
"""Bytes; kernels assume it of every buffer of the plan."""


@dataclass(frozen=True)
class Use:
    """A step as memory sees it.

    A `view` has the memory of the one value it reads. `overwrites` are reads whose place the output may take: each
    element is read just before the output's element there is written. `parts` are (read, offset) of a
    concatenation whose inputs lie in one piece each.
    """

    output: str
    reads: tuple[str, ...]
    view: bool = False
    overwrites: tuple[str, ...] = ()
    parts: tuple[tuple[str, int], ...] = ()


@dataclass
class Shares:
    """The decisions. `overwritten[output]` is the operand whose place it takes, `placed[output]` parts made inside."""

    home: dict[str, tuple[str, int]] = field(default_factory=dict)
    overwritten: dict[str, str] = field(default_factory=dict)
    placed: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def root(self, name: str) -> tuple[str, int]:
        """(root, offset) of a value."""
        offset = 0
        while name in self.home:
            name, step = self.home[name]
            offset += step
        return name, offset


def share(uses: Sequence[Use], sizes: Mapping[str, int], fixed: Collection[str], results: Collection[str]) -> Shares:
    """Decide for steps in their order; `fixed` values belong to the caller, `results` are read at the end."""
    shares = Shares()
    for use in uses:
        if use.view:
            shares.home[use.output] = (use.reads[0], 0)
    for use in uses:
        if use.parts:
            shares.placed[use.output] = _place_parts(use, shares, sizes, fixed, results)
    for step, use in enumerate(uses):
        for operand in use.overwrites:
            if _may_overwrite(use, operand, step, uses, shares, sizes, fixed, results):
                shares.home[use.output] = (operand, 0)
                shares.overwritten[use.output] = operand
                break
    return shares


def _place_parts(
    use: Use, shares: Shares, sizes: Mapping[str, int], fixed: Collection[str], results: Collection[str]
) -> tuple[str, ...]:
    """Make what parts may be made inside the concatenation."""
    kept = {shares.root(name)[0] for name in results}
    if shares.root(use.output) != (use.output, 0) or use.output in kept:
        return ()  # a result is memory of its own, and nothing else lies in it
    for part, offset in use.parts:
        root, inside = shares.root(part)
        start = offset - inside
        movable = root not in fixed and root not in kept and root != use.output
        if movable and start % ALIGNMENT == 0 and _fits(use, root, start, shares, sizes):
            shares.home[root] = (use.output, start)
    placed = [part for part, offset in use.parts if shares.root(part) == (use.output, offset)]
    return tuple(dict.fromkeys(placed))


def _fits(use: Use, root: str, start: int, shares: Shares, sizes: Mapping[str, int]) -> bool:
    """Whether `root`, put at `start`, consists of parts of the concatenation, each at its place."""
    stop, covered = start + sizes[root], 0
    if start < 0 or stop > sizes[use.output]:
        return False
    for part, offset in use.parts:
        if offset < stop and start < offset + sizes[part]:
            found, inside = shares.root(part)
            if found != root or start + inside != offset:
                return False
            covered += sizes[part]
    return covered == sizes[root]


def _may_overwrite(
    use: Use,
    operand: str,
    step: int,
    uses: Sequence[Use],
    shares: Shares,
    sizes: Mapping[str, int],
    fixed: Collection[str],
    results: Collection[str],
) -> bool:
    """Whether the output may take the operand's place at this step."""
    root, _ = shares.root(operand)
    if root in fixed or shares.root(use.output) != (use.output, 0) or sizes[use.output] != sizes[operand]:
        return False
    if shares.placed.get(root) and use.output in {shares.root(name)[0] for name in results}:
        return False  # as above: parts made inside a concatenation would lie in a result's memory
    if root == use.output or any(name != operand and shares.root(name)[0] == root for name in use.reads):
        return False
    later = {name for other in uses[step + 1 :] for name in other.reads}.union(results)
    return all(shares.root(name)[0] != root for name in later)
