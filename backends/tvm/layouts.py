"""The layout of every value and the way of every region, for the whole graph at once.

    minimize   sum over regions of (own cost + cost of reading each input) + sum over values of their conversions

A variable of the assignment is a region (its choices are its alternatives) or a value (its choices are the sets of
layouts in which it will exist). A value exists in the layout in which it is made; every other one costs one
conversion, however many readers share it. Each reader takes the cheapest layout that there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import inf

from torch import fx

from .alternatives import Alternative, conversion_seconds, layouts_of
from .assignment import Problem, minimize
from .plan import PLAIN, Layout, Value, value_of
from .target import Target

Layouts = tuple[Layout, ...]


@dataclass(frozen=True, eq=False)
class Assignment:
    """The chosen alternative of each region, and the layouts in which each value exists."""

    chosen: Mapping[fx.Node, Alternative]
    layouts: Mapping[fx.Node, Layouts]

    def read(self, node: fx.Node, position: int, source: fx.Node) -> Layout:
        """The layout in which region `node` reads `source` at `position`."""
        costs = self.chosen[node].reads[position]
        return min((layout for layout in self.layouts[source] if layout in costs), key=costs.__getitem__)


def assign(graph: fx.Graph, alternatives: Mapping[fx.Node, Sequence[Alternative]], target: Target) -> Assignment:
    """The cheapest assignment for a graph of regions. Inputs and outputs of the graph are PLAIN."""
    problem = Problem()
    values = [n for n in graph.nodes if n.op == "placeholder" or n in alternatives]
    sets = {n: _subsets(layouts_of(n.meta["val"].shape, target)) for n in values}
    results = set(graph.output_node().all_input_nodes)
    regions = {n: problem.variable([a.seconds for a in ways]) for n, ways in alternatives.items()}
    states: dict[fx.Node, int] = {}
    for node in values:
        value = value_of(node)
        if node in regions:
            own = [0.0 for _ in sets[node]]
            made = [[_conversions(value, a.output, layouts) for layouts in sets[node]] for a in alternatives[node]]
        else:
            own = [_conversions(value, PLAIN, layouts) for layouts in sets[node]]
        if node in results:
            own = [cost if PLAIN in layouts else inf for cost, layouts in zip(own, sets[node], strict=True)]
        states[node] = problem.variable(own)
        if node in regions:
            problem.pair(regions[node], states[node], made)
    for node, ways in alternatives.items():
        for position, source in enumerate(_arguments(node)):
            if source in states:
                costs = [[_cheapest(a.reads[position], layouts) for layouts in sets[source]] for a in ways]
                problem.pair(regions[node], states[source], costs)
    choices = minimize(problem)
    return Assignment(
        {node: ways[choices[regions[node]]] for node, ways in alternatives.items()},
        {node: sets[node][choices[states[node]]] for node in values},
    )


def _arguments(node: fx.Node) -> list[fx.Node]:
    return [a for a in node.args if isinstance(a, fx.Node)]


def _subsets(layouts: Layouts) -> list[Layouts]:
    """Every nonempty one, smaller ones first."""
    return list(chain.from_iterable(combinations(layouts, size) for size in range(1, len(layouts) + 1)))


def _conversions(value: Value, home: Layout, layouts: Layouts) -> float:
    """What it costs to have a value that is made in layout `home` in all of `layouts`, of which home is one."""
    if home not in layouts:
        return inf
    return sum(conversion_seconds(value, home, layout) for layout in layouts if layout != home)


def _cheapest(costs: Mapping[Layout, float], layouts: Layouts) -> float:
    return min((costs[layout] for layout in layouts if layout in costs), default=inf)
