"""The fewest layers in float: with scores that are made up, how many are looked at and which layers are left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from planish.passes.quantize.fewest import Found, fewest


class Scores:
    """1 less what the layers in integers cost; counts the looks."""

    def __init__(self, costs: dict[int, float]) -> None:
        self.costs = costs
        self.looks = 0

    def __call__(self, floats: frozenset[int]) -> float:
        self.looks += 1
        return 1.0 - sum(cost for layer, cost in self.costs.items() if layer not in floats)


def test_nothing_has_to_be_in_float() -> None:
    scores = Scores({0: 0.004})
    assert fewest(range(9), scores, 0.995) == Found((), 0.996, 0.996)
    assert scores.looks == 1


def test_one_layer_of_a_hundred() -> None:
    """The worst comes first: one look without it, one with it."""
    scores = Scores({7: 0.5})
    assert fewest((7, *range(10, 109)), scores, 0.9) == Found((7,), 0.5, 1.0, {7: 0.5})
    assert scores.looks == 2


def test_what_stands_between_is_given_back() -> None:
    """Of 64 in an order that is wrong only 5 and 40 matter; looks grow with the logarithm of the rest."""
    scores = Scores({5: 0.1, 40: 0.25})
    found = fewest(range(64), scores, 0.95)
    assert found is not None
    assert found.kept == (5, 40)
    assert (found.before, found.after) == (pytest.approx(0.65), 1.0)
    assert found.without == {5: pytest.approx(0.9), 40: pytest.approx(0.75)}
    assert scores.looks <= 32


def test_looks_are_bounded() -> None:
    """What could not be tried stays in float, and is high enough."""
    scores = Scores(dict.fromkeys(range(64), 0.01))
    found = fewest(range(64), scores, 0.7, most=12)
    assert found is not None
    assert len(found.kept) >= 34  # 30 may stay in integers
    assert found.after >= 0.7
    assert scores.looks <= 13


@pytest.mark.parametrize("score", [lambda _: 0.5, lambda floats: 0.5 + 0.001 * len(floats)])
def test_none_is_enough(score: Callable[[frozenset[int]], float]) -> None:
    assert fewest(range(3), score, 0.9) is None
    assert fewest((), score, 0.9) is None
