"""The assignment is the cheapest one: against every assignment of small graphs, and on graphs that are not small."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise, product
from math import inf

import numpy as np
import pytest

from planish.backends.tvm.assignment import Problem, dead_ends, minimize


def random_problem(seed: int) -> Problem:
    """Up to ten variables; small whole costs make ties, infinity forbids."""
    r = random.Random(seed)
    problem = Problem()
    count = r.randint(1, 10)
    for _ in range(count):
        choices = r.randint(1, 4 if count < 6 else 3)
        problem.variable([r.choice([0, 1, 2, inf if r.random() < 0.3 else 3]) for _ in range(choices)])
    density = r.choice([0.2, 0.5, 0.9])
    for u, v in product(range(count), repeat=2):
        if u < v and r.random() < density:
            costs = [[r.choice([0, 0, 1, 2, 5, inf]) for _ in problem.own[v]] for _ in problem.own[u]]
            problem.pair(u, v, costs)
    return problem


def every_cost(problem: Problem) -> np.ndarray:
    """The cost of every assignment, one axis a variable."""
    count = len(problem.own)
    total = np.zeros((1,) * count)
    for v, costs in enumerate(problem.own):
        total = total + costs.reshape([-1 if a == v else 1 for a in range(count)])
    for (u, v), table in problem.pairs.items():
        total = total + table.reshape([len(problem.own[a]) if a in (u, v) else 1 for a in range(count)])
    return total


@pytest.mark.parametrize("block", range(8))
def test_equals_the_cheapest_of_all_assignments(block: int) -> None:
    for seed in range(250 * block, 250 * (block + 1)):
        problem = random_problem(seed)
        best = float(every_cost(problem).min())
        if best == inf:
            with pytest.raises(ValueError, match="no assignment"):
                minimize(problem)
        else:
            assert problem.cost(minimize(problem)) == best, seed


def test_dead_ends_keep_a_cheapest_assignment() -> None:
    dropped = 0
    for seed in range(400):
        problem = random_problem(seed)
        alive = dead_ends(problem)
        costs = every_cost(problem)
        dropped += sum(len(own) - len(left) for own, left in zip(problem.own, alive, strict=True))
        assert costs[np.ix_(*alive)].min() == costs.min(), seed
    assert dropped > 500


def test_of_equal_choices_the_first_is_taken() -> None:
    problem = Problem()
    u, v = problem.variable([1, 1, 1]), problem.variable([0, 0])
    problem.pair(u, v, [[2, 1], [1, 2], [1, 1]])
    assert problem.cost(minimize(problem)) == 2
    alone = Problem()
    alone.variable([3, 1, 1])
    assert minimize(alone) == [1]


def test_pairs_given_twice_and_backwards_add_up() -> None:
    problem = Problem()
    u, v = problem.variable([0, 0]), problem.variable([0, 0, 0])
    problem.pair(u, v, [[1, 2, 3], [4, 5, 6]])
    problem.pair(v, u, [[10, 20], [30, 40], [50, 60]])
    assert problem.cost([0, 2]) == 3 + 50
    assert problem.cost([1, 0]) == 4 + 20


def chain(length: int) -> Problem:
    """Neighbours should differ, and the ends are given: only one assignment of an odd chain pays once."""
    problem = Problem()
    nodes = [problem.variable([0.0, 0.0]) for _ in range(length)]
    for u, v in pairwise(nodes):
        problem.pair(u, v, [[1, 0], [0, 1]])
    problem.pair(nodes[0], problem.variable([0]), [[0], [inf]])
    problem.pair(nodes[-1], problem.variable([0]), [[0], [inf]])
    return problem


def test_long_chains_are_exact() -> None:
    assert chain(301).cost(minimize(chain(301))) == 0
    assert chain(300).cost(minimize(chain(300))) == 1


def test_a_tangled_graph_is_cut_and_stays_allowed() -> None:
    """Every pair must agree, and agreeing on the second choice is cheaper: no table fits, all is cut."""
    problem = Problem()
    nodes = [problem.variable([1.0, 0.0]) for _ in range(40)]
    for u, v in product(nodes, repeat=2):
        if u < v:
            problem.pair(u, v, [[0, 50], [51, 0]])
    found = minimize(problem, limit=4)
    assert len(set(found)) == 1


def test_cutting_gives_up_no_more_than_it_must() -> None:
    """With tables of eight entries only, what is found is allowed, and mostly still the cheapest."""
    exact = 0
    for seed in range(500):
        problem = random_problem(seed)
        best = float(every_cost(problem).min())
        if best < inf:
            cost = problem.cost(minimize(problem, limit=8))
            assert cost < inf
            exact += cost == best
    assert exact > 150


def test_knows_nothing_of_tvm_and_torch() -> None:
    code = (
        "import sys; sys.modules['tvm'] = sys.modules['torch'] = None\n"
        "from planish.backends.tvm.assignment import Problem, minimize\n"
        "p = Problem(); p.variable([2, 1]); assert minimize(p) == [1]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
