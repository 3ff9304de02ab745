"""Questions about a graph's dataflow, answered by networkx.

    digraph(g): nodes of g, an edge from each value to each call that reads it

Dominators are taken from a virtual source that feeds every placeholder, post-dominators to the output node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import networkx as nx
import torch
from torch import fx

from .program import Program

SOURCE = "source"
"""The virtual node before all placeholders."""


def digraph(graph: fx.Graph) -> Any:
    """The graph as a networkx DiGraph of its nodes."""
    result = nx.DiGraph()
    result.add_nodes_from(graph.nodes)
    result.add_edges_from((source, node) for node in graph.nodes for source in node.all_input_nodes)
    return result


def dominators(graph: fx.Graph) -> dict[fx.Node, fx.Node | None]:
    """For each activation, the nearest other one that every path from the inputs to it runs through.

    None where there is none. Activations are what the placeholders reach; paths from weights do not count.
    """
    flow = digraph(graph).subgraph(depends_on_inputs(graph)).copy()
    flow.add_edges_from((SOURCE, node) for node in graph.nodes if node.op == "placeholder")
    return _nearest(nx.immediate_dominators(flow, SOURCE), SOURCE) if SOURCE in flow else {}


def post_dominators(graph: fx.Graph) -> dict[fx.Node, fx.Node | None]:
    """For each live node but the output, the nearest other node that every path from it to the output runs through."""
    end = graph.output_node()
    found = _nearest(nx.immediate_dominators(digraph(graph).reverse(copy=False), end), None)
    return {node: dominator for node, dominator in found.items() if node is not end}


def _nearest(found: Mapping[Any, Any], root: Any) -> dict[fx.Node, fx.Node | None]:
    """networkx's answer without the virtual root."""
    return {node: None if dominator is root else dominator for node, dominator in found.items() if node is not root}


def sole_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads `node`, None if none or several do (one that reads it twice is one)."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def reachable(starts: Iterable[fx.Node]) -> set[fx.Node]:
    """These nodes and everything computed from them."""
    return _closure(starts, lambda node: node.users)


def ancestors(ends: Iterable[fx.Node]) -> set[fx.Node]:
    """These nodes and everything they are computed from."""
    return _closure(ends, lambda node: node.all_input_nodes)


def _closure(starts: Iterable[fx.Node], step: Any) -> set[fx.Node]:
    """Everything that repeated steps lead to."""
    seen: set[fx.Node] = set()
    pending = list(starts)
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending.extend(step(node))
    return seen


def reaches(start: fx.Node, end: fx.Node) -> bool:
    """Whether `end` is computed from `start` (a node reaches itself)."""
    return end in reachable([start])


def is_convex(nodes: Collection[fx.Node]) -> bool:
    """Whether no path leaves the set and comes back: only then can it become one call."""
    inside = set(nodes)
    left = reachable(user for node in inside for user in node.users if user not in inside)
    return not any(source in left for node in inside for source in node.all_input_nodes if source not in inside)


def boundary(nodes: Collection[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """(values read from outside in order of first use, values read outside), for nodes given in graph order."""
    inside = set(nodes)
    inputs = dict.fromkeys(source for node in nodes for source in node.all_input_nodes if source not in inside)
    outputs = [node for node in nodes if any(user not in inside for user in node.users)]
    return list(inputs), outputs


def depends_on_inputs(graph: fx.Graph) -> set[fx.Node]:
    """Nodes computed from a placeholder; the others depend on weights alone and can run ahead of time."""
    return reachable([node for node in graph.nodes if node.op == "placeholder"])


def weight_of(node: Any, program: Program) -> torch.Tensor | None:
    """The tensor a `get_attr` node reads, None for anything else."""
    if isinstance(node, fx.Node) and node.op == "get_attr":
        return program.weights.get(str(node.target))
    return None


def weight_readers(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """The calls that read each weight, in graph order (tied weights have several)."""
    readers: dict[str, dict[fx.Node, None]] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                readers.setdefault(str(source.target), {})[node] = None
    return {name: list(nodes) for name, nodes in readers.items()}
