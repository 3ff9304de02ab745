"""Islands: which layers of a calibrated program are faster in float than in integers, by times that somebody measured.

    least over A of   Σ_{u ∉ A} integer(u) + Σ_{u ∈ A} float(u) + Σ conversions at the borders of A     =  a minimum cut

A unit is what cannot be divided: kernels of the integer program and of the float program that compute the same nodes.
A value that crosses a border is converted once, however many read it on the other side. This file measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import networkx as nx
from torch import fx

from ...ir.program import Program
from ...ir.scales import moves
from .builder import is_floating

CODES, FLOAT = "codes", "float"
"""The two sides; as the producer of a border also an input of the model, of bytes or of floats."""

MARGIN = 1.05
NOISE = 0.001
"""By this factor, and by so many milliseconds, a float kernel has to win: less is the noise of measuring."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of either program: the nodes of the calibrated program that it computes, and how long it takes."""

    nodes: frozenset[str]
    milliseconds: float = 0.0


@dataclass(frozen=True)
class Unit:
    """Nodes that are computed together in both programs, and how long each of these takes for them."""

    nodes: frozenset[str]
    layers: tuple[str, ...]
    integer_ms: float
    float_ms: float

    @property
    def loses(self) -> bool:
        """Whether its integer kernels are slower than its float kernels alone, by more than noise."""
        return self.float_ms * MARGIN + NOISE < self.integer_ms


@dataclass(frozen=True)
class Border:
    """A value between units: who makes it (a unit's number, or a side), who reads it, and what conversions take."""

    value: str
    producer: int | str
    readers: frozenset[int]
    quantize: float = 0.0
    dequantize: float = 0.0


@dataclass(frozen=True)
class Islands:
    """The units of a program and what lies between them; `fixed` are units that are in float in any case."""

    units: tuple[Unit, ...]
    borders: tuple[Border, ...]
    fixed: frozenset[int] = frozenset()

    def milliseconds(self, floats: Collection[int]) -> float:
        """How long all takes with these units in float, and those that are so in any case."""
        chosen = self.fixed.union(floats)
        times = (unit.float_ms if place in chosen else unit.integer_ms for place, unit in enumerate(self.units))
        return sum(times) + sum(self._conversion(border, chosen) for border in self.borders)

    def alone(self, unit: int) -> float:
        """The conversions that come with one unit in float, less those that go."""
        both = self.milliseconds([unit]) - self.milliseconds([])
        return both - (self.units[unit].float_ms - self.units[unit].integer_ms)

    def fastest(self) -> frozenset[int]:
        """The units that make the whole fastest in float; without those that are there in any case."""
        _, (_, floats) = nx.minimum_cut(self._network, CODES, FLOAT)
        return frozenset(u for u in floats if isinstance(u, int)) - self.fixed

    @staticmethod
    def _conversion(border: Border, floats: frozenset[int]) -> float:
        in_float = border.producer == FLOAT or border.producer in floats
        across = border.readers - floats if in_float else border.readers & floats
        return (border.quantize if in_float else border.dequantize) if across else 0.0

    @cached_property
    def _network(self) -> nx.DiGraph[Any]:
        """What stays on the side of CODES after a cut is in integers; edges without capacity are never cut.

        Capacities are whole: a flow of floats leaves rests behind, which let it miss the minimum by far.
        """
        network: nx.DiGraph[Any] = nx.DiGraph()
        network.add_nodes_from((CODES, FLOAT))
        for place, unit in enumerate(self.units):
            network.add_edge(CODES, place, capacity=_whole(unit.float_ms * MARGIN + NOISE))
            network.add_edge(place, FLOAT, **({} if place in self.fixed else {"capacity": _whole(unit.integer_ms)}))
        for border in self.borders:
            if border.producer != FLOAT:
                network.add_edge(border.producer, ("dequantize", border.value), capacity=_whole(border.dequantize))
                network.add_edges_from((("dequantize", border.value), reader) for reader in border.readers)
            if border.producer != CODES:
                network.add_edge(("quantize", border.value), border.producer, capacity=_whole(border.quantize))
                network.add_edges_from((reader, ("quantize", border.value)) for reader in border.readers)
        return network


def _whole(milliseconds: float) -> int:
    """In picoseconds."""
    return round(milliseconds * 1e9)


def islands(
    program: Program,
    integers: Sequence[Kernel],
    floats: Sequence[Kernel],
    conversions: Mapping[str, tuple[float, float]],
    kept: Collection[str] = (),
) -> Islands:
    """The units of a calibrated program; `conversions` are (quantize, dequantize) of a value in milliseconds.

    `kept` are the nodes that the integer program has in float.
    """
    nodes = {node.name: node for node in program.graph.nodes if node.op == "call_function"}
    units = tuple(_units(nodes, integers, floats))
    unit_of = {name: place for place, unit in enumerate(units) for name in unit.nodes}
    fixed = frozenset(place for place, unit in enumerate(units) if not unit.nodes.isdisjoint(kept))
    return Islands(units, tuple(_borders(nodes, unit_of, conversions)), fixed)


def _units(nodes: Mapping[str, fx.Node], integers: Sequence[Kernel], floats: Sequence[Kernel]) -> Iterator[Unit]:
    """Connected components of kernels that share a node; views, which many kernels copy, connect nothing."""
    shared: nx.Graph[str] = nx.Graph()
    times: list[Counter[str]] = []
    for kernels in (integers, floats):
        times.append(Counter())
        for kernel in kernels:
            names = _computed(kernel, nodes)
            nx.add_path(shared, names)
            times[-1].update({name: kernel.milliseconds for name in names[:1]})
    for part in nx.connected_components(shared):
        members = [name for name in nodes if name in part]
        if any(is_floating(nodes[name]) for name in members):
            spent = (float(sum(made[name] for name in members)) for made in times)
            yield Unit(frozenset(members), _layers(nodes[name] for name in members), *spent)


def _computed(kernel: Kernel, nodes: Mapping[str, fx.Node]) -> list[str]:
    """The nodes of a kernel that compute, in order; all of it where none does."""
    known = sorted(name for name in kernel.nodes if name in nodes)
    return [name for name in known if not moves(nodes[name])] or known


def _layers(nodes: Iterable[fx.Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(o.layer for node in nodes for o in node.meta.get("origins", ()) if o.layer))


def _borders(
    nodes: Mapping[str, fx.Node], unit_of: Mapping[str, int], conversions: Mapping[str, tuple[float, float]]
) -> Iterator[Border]:
    """Each floating value that another unit reads than the one that makes it."""
    readers: dict[fx.Node, set[int]] = {}
    for name, unit in unit_of.items():
        for read in nodes[name].all_input_nodes:
            for source in _sources(read, unit_of):
                if unit_of.get(source.name) != unit:
                    readers.setdefault(source, set()).add(unit)
    for source, own in readers.items():
        if source.op == "placeholder":
            producer: int | str = FLOAT if is_floating(source) else CODES
        else:
            producer = unit_of[source.name]
        yield Border(source.name, producer, frozenset(own), *conversions.get(source.name, (0.0, 0.0)))


def _sources(node: fx.Node, unit_of: Mapping[str, int]) -> Iterator[fx.Node]:
    """Where a value comes from: a unit or an input, behind views that belong to no unit."""
    if node.op == "placeholder" or (node.name in unit_of and is_floating(node)):
        yield node
    elif node.op == "call_function" and node.name not in unit_of:
        for source in node.all_input_nodes:
            yield from _sources(source, unit_of)


def with_views(program: Program, floats: Collection[str]) -> set[str]:
    """The nodes in float and the views between them: one whose source is in float, and a reader or the result, too."""
    found, calls = set(floats), [node for node in program.graph.nodes if node.op == "call_function"]
    reached = set(floats)
    for node in calls:
        if moves(node) and any(source.name in reached for source in node.all_input_nodes):
            reached.add(node.name)
    for node in reversed(calls):
        if node.name in reached and any(user.op == "output" or user.name in found for user in node.users):
            found.add(node.name)
    return found
