"""Winners inside the network: who is not faster there is put back, and the whole is never slower."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import torch
from kernel_case import aten, make_task
from tune.fakes import FIRST, LAST, SECOND, SPACE, Shop

from planish.backends.tvm.template import Chooser, Task
from planish.backends.tvm.tune.confirm import LEAST, compare, losers
from planish.backends.tvm.tune.database import Database
from planish.backends.tvm.tune.spaces import Option
from planish.backends.tvm.tune.tuner import Known, Tasks, Tuner, searching


class Net:
    """A network whose times are given; `drift` slows it down from run to run."""

    def __init__(self, times: Mapping[str, float], overhead: float = 0.0, drift: Iterator[float] | None = None) -> None:
        self.times, self.overhead = times, overhead
        self.drift = drift or itertools.repeat(1.0)

    def run(self) -> float:
        return (sum(self.times.values()) + self.overhead) * next(self.drift)

    def by_task(self) -> Mapping[str, float]:
        factor = next(self.drift)
        return {key: seconds * factor for key, seconds in self.times.items()}


quiet = contextlib.nullcontext


def test_losers_are_those_that_are_not_faster_in_the_network() -> None:
    untuned, tuned = Net({"a": 2.0, "b": 2.0, "c": 2.0, "d": 1.0}), Net({"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.1})
    assert losers(untuned, tuned, ["a", "b", "c"], quiet) == ["b", "c"]


def test_neighbours_in_time_are_compared() -> None:
    """The machine gets slower all the time: medians of all runs would say that the one that began is faster."""
    slower = itertools.accumulate(itertools.repeat(1.05), lambda a, b: a * b)
    untuned, tuned = Net({"a": 1.0}, drift=slower), Net({"a": 0.9}, drift=slower)
    assert losers(untuned, tuned, ["a"], quiet) == []
    before, after = compare(untuned, tuned, quiet)
    assert after < before
    before, after = compare(tuned, untuned, quiet)
    assert after > before


def two_tasks() -> tuple[Tasks, dict[str, Task]]:
    """A network of two tasks, written down by the chooser that it is lowered with."""
    tasks = Tasks("a machine")
    for rows in (4, 8):
        made = make_task(aten.relu.default, [torch.zeros(rows, 4)], anchor=aten.relu.default)
        assert tasks(FIRST, made).choice is None
    return tasks, {str(key): task for key, (_, task) in tasks.found.items()}


class Builder:
    """Builds networks: a task takes what `time` says of the kernel that the chooser gives it."""

    def __init__(self, tasks: Mapping[str, Task], time: Callable[[Task, Option], float], overhead: float = 0.0) -> None:
        self.tasks, self.time, self.overhead = tasks, time, overhead
        self.built: list[dict[str, Option]] = []

    def __call__(self, choose: Chooser) -> Net:
        chosen = {key: choose(FIRST, task) for key, task in self.tasks.items()}
        options = {key: Option(c.template, c.choice or SPACE[0]) for key, c in chosen.items()}
        self.built.append(options)
        changed = any(option.choice != SPACE[0] for option in options.values())
        times = {key: self.time(self.tasks[key], option) for key, option in options.items()}
        return Net(times, self.overhead if changed else 0.0)


def tune(
    alone: Callable[[Task, Option], float],
    within: Callable[[Task, Option], float],
    database: Database,
    overhead: float = 0.0,
    budget: float = 1000.0,
) -> tuple[dict[int, Sequence[object]], Builder, object]:
    """Rows of the task -> the choice it ends with."""
    tasks, found = two_tasks()
    build = Builder(found, within, overhead)
    untuned = Net({key: within(task, Option(FIRST, SPACE[0])) for key, task in found.items()})
    tuner = Tuner([FIRST, LAST], Shop(alone), database, quiet, "a machine")
    choose, summary = tuner.tune(build, untuned, tasks, budget)
    ends = {task.output.shape[0]: (choose(FIRST, task).choice, choose(FIRST, task).tuned) for task in found.values()}
    return ends, build, summary


def faster_at(tile: int) -> Callable[[Task, Option], float]:
    return lambda _task, option: 1.0 if option.choice == {"tile": tile, "order": "a"} else 2.0


@pytest.fixture
def database() -> Iterator[Database]:
    with Database(None) as made:
        yield made


def test_a_winner_is_used(database: Database) -> None:
    ends, build, summary = tune(faster_at(3), faster_at(3), database)
    assert ends[4] == ends[8] == ({"tile": 3, "order": "a"}, {"seconds": 1.0, "default_seconds": 2.0})
    assert len(build.built) == 1
    assert (summary.kept, summary.put_back) == (2, 0)  # type: ignore[attr-defined]
    assert (summary.untuned_ms, summary.tuned_ms) == (4000.0, 2000.0)  # type: ignore[attr-defined]
    assert summary.metaschedule is None  # type: ignore[attr-defined]  # nobody asked for it


def test_a_winner_that_is_not_faster_within_is_put_back_here_and_in_the_database(database: Database) -> None:
    def within(task: Task, option: Option) -> float:
        return 2.0 if task.output.shape[0] == 4 else faster_at(3)(task, option)

    ends, build, summary = tune(faster_at(3), within, database)
    assert (ends[4][0], ends[8][0]) == (None, {"tile": 3, "order": "a"})
    assert len(build.built) == 2
    assert (summary.kept, summary.put_back) == (1, 1)  # type: ignore[attr-defined]
    kept = sorted((record.choice["tile"], record.seconds) for _, record in database.records())
    assert kept == [(1, 2.0), (3, 1.0)]
    ends, build, _ = tune(faster_at(3), within, database)  # and the next search does not fall for it again
    assert (ends[4][0], len(build.built)) == (None, 1)


def test_when_time_is_up_the_network_is_built_once(database: Database) -> None:
    """What it was built with has to be faster as a whole, and what is not faster in it is put back nevertheless."""

    def within(task: Task, option: Option) -> float:
        return 2.0 if task.output.shape[0] == 4 else faster_at(3)(task, option)

    tune(faster_at(3), faster_at(3), database)  # the database now knows what is faster alone
    ends, build, summary = tune(faster_at(3), within, database, budget=0.0)
    assert (ends[4][0], ends[8][0]) == (None, {"tile": 3, "order": "a"})
    assert len(build.built) == 1
    assert (summary.untuned_ms, summary.tuned_ms) == (4000.0, 3000.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("budget", "building", "left"),
    [
        (100.0, 5.0, 80.0),  # a fifth is enough for 5 seconds and two comparisons of 1.5
        (100.0, 19.0, 78.0),  # 19 + 3 are kept
        (100.0, 60.0, 77.0),  # kernels were compiled: no more than 20 + 3
        (20.0, 3.0, 14.0),
        (3.0, 1.0, 1.5),  # of a short one half
    ],
)
def test_what_is_kept_of_the_budget_does_for_building_the_network(budget: float, building: float, left: float) -> None:
    assert searching(budget, building) == pytest.approx(left)


def test_networks_alternate_no_longer_than_there_is_time() -> None:
    runs = itertools.count()
    counted = Net({"a": 1.0}, drift=(1.0 for _ in runs))
    assert losers(Net({"a": 2.0}), counted, ["a"], quiet, left=0.0) == []
    assert next(runs) == LEAST


def test_a_tuned_network_that_is_slower_as_a_whole_is_not_used(database: Database) -> None:
    ends, _, summary = tune(faster_at(3), faster_at(3), database, overhead=2.5)
    assert ends[4] == ends[8] == (None, None)
    assert summary.kept == 0  # type: ignore[attr-defined]
    assert summary.tuned_ms == summary.untuned_ms  # type: ignore[attr-defined]


def test_nothing_is_built_if_nothing_was_found(database: Database) -> None:
    _, build, summary = tune(lambda _t, _o: 1.0, lambda _t, _o: 1.0, database)
    assert not build.built
    assert summary.untuned_ms is None  # type: ignore[attr-defined]


def test_known_kernels_are_used_without_measuring(database: Database) -> None:
    tune(faster_at(3), faster_at(3), database)
    known = Known(database, [FIRST, LAST], "a machine")
    _, found = two_tasks()
    chosen = [known(FIRST, task) for task in found.values()]
    assert [c.choice for c in chosen] == [{"tile": 3, "order": "a"}] * 2
    assert chosen[0].tuned == {"seconds": 1.0, "default_seconds": 2.0}
    other = make_task(aten.relu.default, [torch.zeros(3, 4)], anchor=aten.relu.default)
    assert known(FIRST, other).choice is None
    assert (known.summary.tasks, known.summary.known, known.summary.kept) == (3, 2, 2)


def test_known_kernels_that_no_template_offers_any_more_are_left(database: Database) -> None:
    tune(faster_at(3), faster_at(3), database)
    known = Known(database, [SECOND, LAST], "a machine")
    _, found = two_tasks()
    assert [known(SECOND, task) for task in found.values()] == [(SECOND, None, None)] * 2
