"""Templates, and a workshop with times that are made up, for searching without compiling anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from planish.backends.tvm.template import Choice, Lowered, Task, Wants
from planish.backends.tvm.tune.candidate import Failed
from planish.backends.tvm.tune.spaces import Option

SPACE: list[Choice] = [{"tile": tile, "order": order} for tile in (1, 2, 3, 4) for order in ("a", "b")]


class Fake:
    """A template that takes every task, in one layout."""

    def __init__(self, name: str, space: Sequence[Choice] = SPACE, output: str = "plain", takes: str = "plain") -> None:
        self.name, self._space, self._wants = name, space, Wants({0: (takes,)}, output)

    def wants(self, task: Task) -> Wants:
        return self._wants

    def space(self, task: Task) -> Sequence[Choice]:
        return self._space

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        return Lowered(None, (0,), self._wants.output, {} if choice is None else choice)


FIRST, SECOND, LAST = Fake("first"), Fake("second", SPACE[:2]), Fake("last")


class Clock:
    """Time as the workshop spends it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Shop:
    """Times by formula; each takes a second of the clock, or the `pace` of an option."""

    def __init__(
        self, times: Callable[[Task, Option], float | Failed], pace: Callable[[Option], float] = lambda _: 1.0
    ) -> None:
        self.times, self.clock, self.pace = times, Clock(), pace
        self.visits: list[list[Choice]] = []

    def seconds(self, task: Task, options: Sequence[Option]) -> Iterator[float | Failed]:
        self.visits.append([option.choice for option in options])
        for option in options:
            self.clock.now += self.pace(option)
            yield self.times(task, option)
