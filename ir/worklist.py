"""Which node to look at next: in graph order, again and again until a whole round changes nothing."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from torch import fx


class Worklist:
    """Nodes to look at, in graph order; refills with the whole graph until a full round changes nothing."""

    def __init__(self, graph: fx.Graph, erased: Mapping[fx.Node, None]) -> None:
        """All nodes of `graph`; `erased` grows while it is edited."""
        self.graph = graph
        self.erased = erased
        self.heap: list[fx.Node] = list(graph.nodes)
        self.queued = set(self.heap)
        self.changed = False

    def pop(self) -> fx.Node | None:
        """The next node, None when no rule fires any more."""
        while True:
            while self.heap:
                node = heapq.heappop(self.heap)
                self.queued.discard(node)
                if node not in self.erased:
                    return node
            if not self.changed:
                return None
            self.changed = False
            self.push(self.graph.nodes)
            self.changed = False

    def push(self, nodes: Iterable[fx.Node]) -> None:
        """Look at these (again)."""
        self.changed = True
        for node in nodes:
            if node not in self.queued and node not in self.erased:
                self.queued.add(node)
                heapq.heappush(self.heap, node)
