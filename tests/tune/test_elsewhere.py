"""Winners of measurements on a device, in the whole network there: which are kept, and how it is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tune.fakes import FIRST, LAST, SPACE, Shop
from tune.test_confirm import quiet, two_tasks

from planish.backends.tvm.template import Chooser, Task
from planish.backends.tvm.tune.database import Database
from planish.backends.tvm.tune.elsewhere import RemoteTuner


class Estimated:
    """Seconds of both tasks, as one guesses them: the larger one takes longer."""

    def __init__(self, tasks: dict[str, Task]) -> None:
        self.times = {key: float(task.output.shape[0]) for key, task in tasks.items()}

    def run(self) -> float:
        return sum(self.times.values())

    def by_task(self) -> dict[str, float]:
        return self.times


@pytest.fixture
def database() -> Iterator[Database]:
    with Database(None) as made:
        yield made


def tune(database: Database, within: Callable[[int, bool], float]) -> tuple[dict[int, bool], list[set[int]], Any]:
    """Rows of each task -> whether its kernel is another in the end; which were tuned in each comparison; the summary.

    Alone the option of tile 3 is faster for both tasks; `within` says what a task takes in the network.
    """
    tasks, found = two_tasks()
    compared: list[set[int]] = []

    def network(choose: Chooser) -> dict[int, bool]:
        return {task.output.shape[0]: choose(FIRST, task).choice is not None for task in found.values()}

    def compare(first: Any, second: Any, seconds: float) -> list[tuple[float, float]]:
        compared.append({rows for rows, tuned in second.items() if tuned})
        return [tuple(sum(within(*entry) for entry in net.items()) for net in (first, second))] * 3  # type: ignore[misc]

    shop = Shop(lambda _task, option: 1.0 if option.choice == {"tile": 3, "order": "a"} else 2.0)
    tuner = RemoteTuner(
        [FIRST, LAST], shop, database, quiet, "a machine", default=tasks, network=network, compare=compare
    )
    choose, summary = tuner.tune(never, Estimated(found), tasks, 1000.0)
    return network(choose), compared, summary


def never(choose: Chooser) -> Any:
    raise AssertionError("no network runs here")


def test_all_winners_are_kept_at_once_where_they_make_the_network_faster(database: Database) -> None:
    ends, compared, summary = tune(database, lambda rows, tuned: 1.0 if tuned else 2.0)
    assert ends == {4: True, 8: True}
    assert compared == [{4, 8}]
    assert (summary.kept, summary.put_back, summary.untuned_ms, summary.tuned_ms) == (2, 0, 4000.0, 2000.0)


def test_the_half_that_is_slower_is_put_back_here_and_in_the_database(database: Database) -> None:
    """Together they lose; the larger task, which should win most, is tried first and kept; the other adds nothing."""
    times = {(4, True): 5.0, (4, False): 2.0, (8, True): 1.0, (8, False): 2.0}
    ends, compared, summary = tune(database, lambda rows, tuned: times[rows, tuned])
    assert ends == {4: False, 8: True}
    assert compared == [{4, 8}, {8}, {4, 8}]
    assert (summary.kept, summary.put_back, summary.untuned_ms, summary.tuned_ms) == (1, 1, 4000.0, 3000.0)
    assert sorted(record.choice["tile"] for _, record in database.records()) == [1, 3]


def test_where_no_winner_helps_the_network_stays_as_it_was(database: Database) -> None:
    ends, compared, summary = tune(database, lambda rows, tuned: 3.0 if tuned else 2.0)
    assert ends == {4: False, 8: False}
    assert compared == [{4, 8}, {8}, {4}]
    assert (summary.kept, summary.put_back, summary.untuned_ms, summary.tuned_ms) == (0, 2, 4000.0, 4000.0)
    assert {record.choice["tile"] for _, record in database.records()} == {SPACE[0]["tile"]}


def test_without_winners_nothing_is_compared(database: Database) -> None:
    tune(database, lambda rows, tuned: 3.0 if tuned else 2.0)
    ends, compared, summary = tune(database, lambda rows, tuned: 1.0)  # the database knows that there are none
    assert (ends, compared, summary.untuned_ms) == ({4: False, 8: False}, [], None)
