"""A search that ends after a number of options, whatever the machine's speed: with minutes as its budget, every test
that tunes tries the same on a fast and on a loaded machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from planish.backends.tvm.tune.search import VISIT, Exploration
from planish.backends.tvm.tune.spaces import Option

PLENTY = 600.0
"""Seconds that the budget of such a search never runs out of."""


@contextlib.contextmanager
def little_search(options: int = 2) -> Iterator[None]:
    """Nothing is left to try for a task of which so many options, and the default, were tried."""
    whole = Exploration.following

    def following(self: Exploration, count: int = VISIT) -> list[Option]:
        left = options + 1 - len(self.times) if self.times else options
        return whole(self, min(count, left)) if left > 0 else []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Exploration, "following", following)
        yield
