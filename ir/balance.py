"""What a rewrite saves, kept while a graph is edited:  saved == cost(graph before) - cost(graph after).

Parameters are the elements of constants that somebody reads, a tied one once. Both figures are negative where a rewrite
adds: a copy of a tied weight, a sum taken apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from torch import fx

from .cost import node_flops
from .program import Program
from .report import Site


class Balance:
    """Parameters and operations saved since the last site."""

    def __init__(self, program: Program) -> None:
        """Over the graph of `program`, which is being edited."""
        self.program = program
        self.readers = Counter(str(n.target) for n in program.graph.nodes if n.op == "get_attr")
        self.parameters = 0
        self.flops = 0

    def add(self, node: fx.Node) -> None:
        """A node that was made."""
        if node.op == "get_attr":
            name = str(node.target)
            self.readers[name] += 1
            self.parameters -= self._size(name) if self.readers[name] == 1 else 0
        else:
            self.flops -= node_flops(node, self.program.regions)

    def remove(self, node: fx.Node) -> None:
        """A node that is about to be erased."""
        if node.op == "get_attr":
            name = str(node.target)
            self.readers[name] -= 1
            self.parameters += self._size(name) if self.readers[name] == 0 else 0
        else:
            self.flops += node_flops(node, self.program.regions)

    def close(self, site: Site) -> Site:
        """The site with what was saved since the one before."""
        saved = replace(site, parameters=self.parameters, flops=self.flops)
        self.parameters = self.flops = 0
        return saved

    def charge(self, site: Site, reads: Iterable[str]) -> Site:
        """The site of one of many nodes that were erased together; a constant counts for the first that read it."""
        gone = [name for name in dict.fromkeys(reads) if self.readers.get(name) == 0]
        for name in gone:
            del self.readers[name]
        return replace(site, parameters=sum(map(self._size, gone)))

    def _size(self, name: str) -> int:
        return self.program.weights[name].numel()
