"""What the kernels of norms have in common: x and the parameters as formulas, sums in vectors, and the store.

sums:  total = sum over segments of (sum over a segment)        a segment has so few steps that sums stay exact
store: y = (x - mean) * scale * w + b, then what comes after it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

from torch import fx

from ..compat import tirx
from ..epilogue import Epilogue, anchor_chain
from ..generic.region import RegionBuilder
from ..generic.stage import Domain
from ..generic.template import field_of
from ..ops.lanes import once
from ..plan import computed_dtype
from .emit import Buffer, Expr, Function, const
from .norm_geometry import Norm

SEGMENT = 64
"""Steps of a sum, after which it is added to the sum of all."""

FEW, PART, PARTS = 8, 4096, 64
"""Fewer rows than this are cut into parts, of so many elements at least and of so many parts in all about."""


class NormPasses:
    """Emits the statements of one kernel."""

    def __init__(self, f: Function, norm: Norm) -> None:
        """`f` must be open."""
        self.f, self.norm = f, norm
        self.b = b = RegionBuilder(f)
        self.epilogue = Epilogue(f, norm.anchor)
        after = {norm.anchor, *anchor_chain(f.task, norm.anchor)}
        for position, node in enumerate(f.task.region.placeholders):
            b.fields[node] = b.placeholder(node, position)
        for node in f.task.region.body.nodes:
            if node.op == "call_function" and node not in after and _feeds(node, norm.source):
                b.fields[node] = b.once(node, field_of(b, node))
        self.source = b.fields[norm.source]
        self.domain = Domain(f.task.output.shape, f.layout)
        self.flat = f.alias(f.output, (prod(self.domain.extents),))

    @contextmanager
    def lanes(self, count: int) -> Iterator[Expr]:
        """A vector loop, after which named values are forgotten."""
        with self.f.lanes(count) as v:
            yield v
        self.b.forget()

    def parameter(self, node: fx.Node | None, index: Sequence[Expr]) -> Expr | None:
        """The element of a parameter for the element at `index`; None without that."""
        return None if node is None else self.b.fields[node].at(self.norm.parameter(index))

    def store(self, index: Sequence[Expr], value: Expr) -> None:
        """Finish the norm's element and store it."""
        where, result = self.epilogue.apply(index, value)
        dtype = computed_dtype(self.f.task.output.dtype)
        result = result if str(result.ty.dtype) == dtype else tirx.Cast(dtype, result)
        place = self.b.offset(self.domain.physical(where), self.domain.extents)
        self.f.store(self.flat, result, [place])

    def squared(self, x: Expr, mean: Expr | None) -> Expr:
        """What an element adds to the variance."""
        distance = x if mean is None else once(x - mean)
        return distance * distance

    def scale(self, squares: Expr, count: int) -> Expr:
        """1 / sqrt(var + eps) of a sum of squares."""
        return const(1.0) / tirx.sqrt(squares * const(1 / count) + const(self.norm.eps))

    def filled(self, count: int, value: float = 0.0) -> Buffer:
        """A vector of equal numbers."""
        vector = self.f.vector(count)
        with self.f.lanes(count) as v:
            self.f.store(vector, const(value), [v])
        return vector

    def named(self, value: Expr) -> Expr:
        """A scalar that is computed once."""
        name = self.f.vector(1)
        self.f.store(name, value, [0])
        return name[0]

    def fold(self, vectors: Sequence[Buffer], width: int) -> Expr:
        """The sum of all lanes of vectors, in a fixed order; it is in the first then."""
        first, *others = vectors
        for other in others:
            with self.f.lanes(width) as v:
                self.f.store(first, first[v] + other[v], [v])
        while width > 1:
            half = (width + 1) // 2
            with self.f.lanes(width - half) as v:
                self.f.store(first, first[v] + first[half + v], [v])
            width = half
        return first[0]


def _feeds(node: fx.Node, source: fx.Node) -> bool:
    """Whether the norm's input depends on `node`."""
    waiting, seen = [source], {source}
    while waiting:
        at = waiting.pop()
        if at is node:
            return True
        waiting += [a for a in at.all_input_nodes if a not in seen]
        seen.update(at.all_input_nodes)
    return False


def parts_of(rows: int, length: int) -> int:
    """How many parts a row is cut into."""
    return max(1, min(PARTS // rows, length // PART)) if rows < FEW else 1
