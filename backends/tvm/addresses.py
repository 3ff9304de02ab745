"""Where in memory a region of views and pointwise operations reads the operands of one result element.

result at address a  reads  operand k at  address_k(a)          address_k(a) == a everywhere: an alias
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from ...ir.program import Region
from .compat import tirx, tvm
from .ops.integer import table_of
from .ops.pointwise import is_pointwise
from .plan import Layout, block_of, physical_shape
from .views import broadcast_index, is_view, shape_of, source_index

Expr = Any

_LANES = 16
"""Neighbours that a kernel reads at once, at most."""


@dataclass(frozen=True, eq=False)
class Reads:
    """The reads of `region`, its operands in `layouts` and its result in `output`."""

    region: Region
    layouts: tuple[Layout, ...]
    output: Layout

    def is_alias(self, position: int) -> bool:
        """Whether every element lies where the result would have it."""
        analyzer = tvm.sym.Analyzer()
        index = [_variable(analyzer, extent) for extent in self._extents]
        own = _flatten(index, self._extents)
        return all(_zero(analyzer.simplify(address - own)) for address in self._addresses(index)[position])

    def strides(self) -> dict[int, int | None]:
        """Distance of what two neighbouring elements of the result read, by operand; None if it varies."""
        analyzer = tvm.sym.Analyzer()
        *outer, extent = self._extents or (1,)
        index = [_variable(analyzer, e) for e in outer]
        vectors = extent > _LANES and extent % _LANES == 0
        first = _variable(analyzer, extent // _LANES) * _LANES if vectors else _variable(analyzer, extent - 1)
        here, there = (self._addresses([*index, first + step][-len(self._extents) :]) for step in (0, 1))
        return {
            position: _common(analyzer.simplify(b - a) for a, b in zip(here[position], there[position], strict=True))
            for position in here
        }

    @property
    def _extents(self) -> tuple[int, ...]:
        return physical_shape(shape_of(self.region.result), self.output)

    def _addresses(self, index: Sequence[Expr]) -> dict[int, list[Expr]]:
        """For each operand, the addresses that the result's element at a physical index reads."""
        holders = {node: i for i, node in enumerate(self.region.placeholders)}
        found: dict[int, list[Expr]] = {i: [] for i in range(len(holders))}
        for node, where in sources_of(self.region.result, _logical(index, self.output)):
            layout = self.layouts[holders[node]]
            found[holders[node]].append(_flatten(_physical(where, layout), physical_shape(shape_of(node), layout)))
        return found


def reads_of(region: Region, layouts: Sequence[Layout], output: Layout) -> Reads | None:
    """The reads of a region; None if it is not made of views and pointwise operations alone."""
    if not all(is_view(n) or is_pointwise(n) for n in region.body.nodes if n.op == "call_function"):
        return None
    return Reads(region, tuple(layouts), output)


def sources_of(result: fx.Node, index: Sequence[Expr]) -> Iterator[tuple[fx.Node, Sequence[Expr]]]:
    """(placeholder, index into it) of everything that the element of `result` at `index` depends on."""
    waiting, seen = [(result, list(index))], {}
    while waiting:
        node, where = waiting.pop()
        if (key := (node, *map(id, where))) in seen:  # values that are read twice would be walked exponentially often
            continue
        seen[key] = where  # kept, so that no other index gets the same id
        if node.op == "placeholder":
            yield node, where
        elif is_view(node):
            waiting.append((node.all_input_nodes[0], source_index(node, where)))
        else:
            elements = [a for a in node.all_input_nodes if a is not table_of(node)]
            waiting += [(a, broadcast_index(where, shape_of(a))) for a in elements]


def _logical(position: Sequence[Expr], layout: Layout) -> list[Expr]:
    block = block_of(layout)
    return list(position) if block == 1 else [position[0], position[1] * block + position[-1], *position[2:-1]]


def _physical(index: Sequence[Expr], layout: Layout) -> list[Expr]:
    block = block_of(layout)
    if block == 1:
        return list(index)
    channel = index[1]
    outer, lane = (
        (channel // block, channel % block)
        if isinstance(channel, int)
        else (tirx.floordiv(channel, block), tirx.floormod(channel, block))
    )
    return [index[0], outer, *index[2:], lane]


def _flatten(index: Sequence[Expr], extents: Sequence[int]) -> Expr:
    flat: Expr = 0
    for i, extent in zip(index, extents, strict=True):
        flat = flat * extent + i
    return flat


def _variable(analyzer: Any, extent: int) -> Expr:
    """An index below `extent`."""
    if extent <= 1:
        return 0
    var = tirx.Var("i", "int32")
    analyzer.bind(var, tvm.ir.Range(0, extent))
    return var


def _common(differences: Iterable[Expr]) -> int | None:
    """The constant that all are equal to, if any."""
    found = {int(d) if isinstance(d, (int, tirx.IntImm)) else None for d in differences}
    return found.pop() if len(found) == 1 else None


def _zero(value: Expr) -> bool:
    return isinstance(value, (int, tirx.IntImm)) and int(value) == 0
