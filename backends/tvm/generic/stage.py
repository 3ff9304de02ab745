"""The loops of a region before they are loops: fields, which are formulas of an index, and stages, which are stored.

    field[i]  = expression(i)                                    computed wherever it is read
    stage[i]  = combine over r of value(i, r)                    computed once and kept in a buffer

A builder (`generic/ops`) turns each op of a region into fields, and makes a stage where an element is an
aggregate of many (reductions) or is read many times and costs something (`store`). Everything is said in logical
indices; `Domain` says how a stage's elements lie in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..kernels.emit import Buffer, Expr
from ..plan import PLAIN, Layout, block_of, physical_shape

At = Callable[[Sequence[Expr]], Expr]


@dataclass(eq=False)
class Field:
    """A value by formula: `at(index)` is the element at a logical index."""

    shape: tuple[int, ...]
    dtype: str
    at: At


@dataclass(frozen=True)
class Domain:
    """A logical shape and the layout its elements are kept in; loops run over `extents`."""

    shape: tuple[int, ...]
    layout: Layout = PLAIN

    @property
    def extents(self) -> tuple[int, ...]:
        """Physical extents, the loops of a stage."""
        return physical_shape(self.shape, self.layout)

    @property
    def blocked(self) -> bool:
        """Whether the channels are split into blocks."""
        return self.layout != PLAIN

    def physical(self, index: Sequence[Expr]) -> list[Expr]:
        """Physical index of a logical one."""
        block = block_of(self.layout)
        if block == 1:
            return list(index)
        return [index[0], index[1] // block, *index[2:], index[1] % block]

    def logical(self, position: Sequence[Expr]) -> list[Expr]:
        """Logical index of a physical one."""
        block = block_of(self.layout)
        if block == 1:
            return list(position)
        return [position[0], position[1] * block + position[-1], *position[2:-1]]


@dataclass(eq=False)
class Stage(Field):
    """A stored value: for each index, `combine` over `reduce` extents of `value(index, r)`, beginning at `initial`.

    Without `combine` it is just `value(index, ())`. With `scan`, the axis of that number is walked in order and
    every partial result is kept (cumulative sums).
    """

    domain: Domain = Domain(())
    reduce: tuple[int, ...] = ()
    value: Callable[[Sequence[Expr], Sequence[Expr]], Expr] = lambda index, r: 0
    combine: Callable[[Expr, Expr], Expr] | None = None
    initial: Expr = 0
    scan: int | None = None
    buffer: Buffer = None
    prefix: int = 0
    """Leading axes that are fixed while `buffer` lives (row scratch holds the rest)."""
    reads: list[tuple[Stage, list[Expr]]] = field(default_factory=list)


Builder = Any
