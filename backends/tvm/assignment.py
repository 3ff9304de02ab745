"""The cheapest choice for every variable of a graph whose costs lie on variables and on pairs of them. Exact.

    minimize   sum over v of cost[v][choice of v]  +  sum over pairs (u, v) of cost[u, v][choice of u, choice of v]

This is what layout assignment is, stripped of layouts. Two steps: choices that lose to another choice whatever the
neighbours do are dropped (dead ends), then variables are eliminated one after the other, as in the shortest path
through a chain: the cheapest choice of a variable is tabulated for every choice of its neighbours. A graph so
tangled that such a table would be huge is cut: the variable with the most neighbours keeps its best choice so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

TABLE_LIMIT = 1 << 18
"""Entries of a table above which a graph counts as tangled."""


@dataclass(eq=False)
class Problem:
    """Costs to be filled in by `variable` and `pair`; infinity forbids."""

    own: list[np.ndarray] = field(default_factory=list)
    pairs: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def variable(self, costs: Sequence[float]) -> int:
        """Add a variable with one choice for each cost; returns its number."""
        self.own.append(np.asarray(costs, np.float64))
        return len(self.own) - 1

    def pair(self, u: int, v: int, costs: Sequence[Sequence[float]] | np.ndarray) -> None:
        """Add costs[choice of u][choice of v]; pairs that are given twice add up."""
        assert u != v
        table = np.asarray(costs, np.float64)
        if u > v:
            u, v, table = v, u, table.T
        assert table.shape == (len(self.own[u]), len(self.own[v]))
        self.pairs[u, v] = self.pairs[u, v] + table if (u, v) in self.pairs else table

    def cost(self, choices: Sequence[int]) -> float:
        """What an assignment costs."""
        own = sum(float(costs[c]) for costs, c in zip(self.own, choices, strict=True))
        return own + sum(float(table[choices[u], choices[v]]) for (u, v), table in self.pairs.items())


def minimize(problem: Problem, limit: int = TABLE_LIMIT) -> list[int]:
    """The cheapest assignment, of equal ones one with early choices; raises ValueError if every one is forbidden.

    Exact unless a table would need more than `limit` entries.
    """
    alive = dead_ends(problem)
    frozen = {v: 0 for v, choices in enumerate(alive) if len(choices) == 1}
    while (order := _order(problem, alive, frozen, limit)) is None:
        widest = _most_neighbours(problem, frozen)
        frozen[widest] = _best_alone(problem, alive, widest, frozen)
    choices = _eliminate(_tables(problem, alive), order, frozen)
    found = [int(a[c]) for a, c in zip(alive, choices, strict=True)]
    if np.isfinite(problem.cost(found)):
        return found
    if all(len(alive[v]) == 1 for v in frozen):
        raise ValueError("no assignment is allowed")
    return minimize(problem, 64 * limit)  # what was frozen does not go together


def dead_ends(problem: Problem) -> list[np.ndarray]:
    """The choices of each variable that are left when those are dropped that another one always beats or equals.

    b beats a if  cost(a) - cost(b) + sum over neighbours of min over their choices s of (pair(a, s) - pair(b, s)) >= 0.
    """
    alive = [np.arange(len(costs)) for costs in problem.own]
    around = _neighbours(problem.pairs, len(alive))
    waiting = dict.fromkeys(range(len(alive)))
    while waiting:
        v = next(iter(waiting))
        del waiting[v]
        kept = _undominated(problem, alive, around[v], v)
        if len(kept) < len(alive[v]):
            alive[v] = kept
            waiting |= dict.fromkeys([v, *around[v]])
    return alive


def _undominated(problem: Problem, alive: Sequence[np.ndarray], around: Sequence[int], v: int) -> np.ndarray:
    """Choices of `v` that no other one always beats."""
    kept = list(alive[v])
    rows = [_between(problem.pairs, v, u)[:, alive[u]] for u in around]
    for a in list(alive[v])[::-1]:  # of equal choices the first stays
        if any(b != a and _beats(problem.own[v], rows, b, a) for b in kept):
            kept.remove(a)
    return np.asarray(kept)


def _beats(own: np.ndarray, rows: Sequence[np.ndarray], b: int, a: int) -> bool:
    if np.isinf(own[a]):
        return True
    if np.isinf(own[b]):
        return False
    margin = float(own[a] - own[b])
    for table in rows:
        differences = np.where(np.isinf(table[a]), np.inf, -np.inf)  # where both are forbidden nothing is lost
        finite = np.isfinite(table[a]) & np.isfinite(table[b])
        differences[finite] = table[a][finite] - table[b][finite]
        margin += float(differences.min())
    return margin >= 0


def _between(pairs: Mapping[tuple[int, int], np.ndarray], v: int, u: int) -> np.ndarray:
    """Costs of the pair, choices of `v` in rows."""
    return pairs[v, u] if v < u else pairs[u, v].T


def _neighbours(pairs: Mapping[tuple[int, int], np.ndarray], count: int) -> list[list[int]]:
    around: list[dict[int, None]] = [{} for _ in range(count)]
    for u, v in pairs:
        around[u][v] = around[v][u] = None
    return [list(a) for a in around]


Table = tuple[tuple[int, ...], np.ndarray]
"""Variables and the costs of their choices, one axis each."""


def _tables(problem: Problem, alive: Sequence[np.ndarray]) -> list[Table]:
    """All costs, over the choices that are left."""
    own: list[Table] = [((v,), costs[alive[v]]) for v, costs in enumerate(problem.own)]
    return own + [((u, v), table[np.ix_(alive[u], alive[v])]) for (u, v), table in problem.pairs.items()]


def _order(problem: Problem, alive: Sequence[np.ndarray], frozen: Mapping[int, int], limit: int) -> list[int] | None:
    """The order in which to eliminate, smallest tables first; None if one of them exceeds `limit`."""
    neighbours = _neighbours(problem.pairs, len(alive))
    around = {v: set(a) - frozen.keys() for v, a in enumerate(neighbours) if v not in frozen}
    order = []
    while around:
        v = min(around, key=lambda v: (prod(len(alive[u]) for u in around[v]), v))
        beside = around.pop(v)
        if prod(len(alive[u]) for u in (v, *beside)) > limit:
            return None
        order.append(v)
        for u in beside:
            around[u] = (around[u] | beside) - {u, v}
    return order


def _most_neighbours(problem: Problem, frozen: Mapping[int, int]) -> int:
    """The variable that ties the graph together most."""
    neighbours = _neighbours(problem.pairs, len(problem.own))
    free = (v for v in range(len(problem.own)) if v not in frozen)
    return max(free, key=lambda v: (len(set(neighbours[v]) - frozen.keys()), -v))


def _best_alone(problem: Problem, alive: Sequence[np.ndarray], v: int, frozen: Mapping[int, int]) -> int:
    """The choice of `v` that is cheapest if every neighbour did what suits it best."""
    costs = problem.own[v][alive[v]].copy()
    for u in _neighbours(problem.pairs, len(alive))[v]:
        table = _between(problem.pairs, v, u)[np.ix_(alive[v], alive[u])]
        costs += table[:, frozen[u]] if u in frozen else (table + problem.own[u][alive[u]]).min(axis=1)
    return int(costs.argmin())


def _eliminate(tables: Sequence[Table], order: Sequence[int], frozen: Mapping[int, int]) -> list[int]:
    """Choices (numbers among those left) of least cost, with those of `frozen` given."""
    left = [_restrict(table, frozen) for table in tables]
    decided: list[Table] = []
    for v in order:
        scope, costs = _sum([t for t in left if v in t[0]], v)
        left = [t for t in left if v not in t[0]]
        decided.append((scope, costs.argmin(axis=0)))
        left.append((scope[1:], costs.min(axis=0)))
    choices = {**frozen}
    for (v, *others), best in reversed(decided):
        choices[v] = int(best[tuple(choices[u] for u in others)])
    return [choices[v] for v in range(len(choices))]


def _restrict(table: Table, frozen: Mapping[int, int]) -> Table:
    """A table with the frozen variables' axes taken at their choice."""
    scope, costs = table
    index = tuple(frozen.get(v, slice(None)) for v in scope)
    return tuple(v for v in scope if v not in frozen), np.asarray(costs[index])


def _sum(tables: Sequence[Table], first: int) -> Table:
    """The sum of tables over the union of their variables, `first` on the first axis."""
    scope = (first, *sorted({v for s, _ in tables for v in s} - {first}))
    total: np.ndarray = np.zeros(())
    for variables, costs in tables:
        order = sorted(range(len(variables)), key=lambda i: scope.index(variables[i]))
        total = total + costs.transpose(order)[tuple(slice(None) if v in variables else None for v in scope)]
    return scope, total
