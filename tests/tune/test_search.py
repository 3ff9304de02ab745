"""The search alone, with times that are made up: what it tries, in which order, what it keeps, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_case import aten, make_task
from tune.fakes import FIRST, LAST, SECOND, SPACE, Fake, Shop

from planish.backends.tvm.generic.metaschedule import MetaSchedule
from planish.backends.tvm.template import Choice, Task
from planish.backends.tvm.tune.candidate import Failed
from planish.backends.tvm.tune.database import Attempt, Database, Record
from planish.backends.tvm.tune.search import GAIN, VISIT, Search, recall
from planish.backends.tvm.tune.spaces import Name, Option, Tunable, distance, nearest, options_of


def task(rows: int = 8) -> Task:
    return make_task(aten.relu.default, [torch.zeros(rows, 4)], anchor=aten.relu.default)


def tunable(key: str = "k", seconds: float = 1.0, rows: int = 8, space: Sequence[Choice] = SPACE) -> Tunable:
    return Tunable(key, task(rows), tuple(Option(FIRST, choice) for choice in space), seconds)


def slow_but(**fast: Any) -> Callable[[Task, Option], float | Failed]:
    """Three seconds, one less for each decision that is as in `fast`."""
    return lambda _task, option: 3.0 - sum(option.choice.get(name) == value for name, value in fast.items())


def searched(shop: Shop, tunables: Sequence[Tunable], database: Database, seconds: float = 1000.0) -> Search:
    search = Search(tunables, shop, database, shop.clock)
    search.run(shop.clock() + seconds)
    return search


@pytest.fixture
def database() -> Iterator[Database]:
    with Database(None) as made:
        yield made


def test_the_default_is_measured_first_and_what_is_near_the_best_next(database: Database) -> None:
    shop = Shop(slow_but(tile=4, order="b"))
    search = searched(shop, [tunable()], database)
    assert shop.visits[0][:5] == [SPACE[0], SPACE[1], SPACE[2], SPACE[4], SPACE[6]]  # one decision off, then two
    ((option, record),) = search.winners().values()
    assert option.choice == {"tile": 4, "order": "b"}
    assert (record.seconds, record.default_seconds) == (1.0, 3.0)


def test_a_search_ends_when_nothing_is_left_to_try(database: Database) -> None:
    search = searched(shop := Shop(slow_but(tile=2)), [tunable()], database)
    assert search.tried == len(SPACE)
    assert shop.clock.now < 20
    assert [len(visit) for visit in shop.visits] == [1 + VISIT, 1 + len(SPACE) - 1 - VISIT]


def test_the_longest_task_is_visited_first_and_fades_as_nothing_is_found(database: Database) -> None:
    many = [{"tile": i} for i in range(30)]
    tunables = [tunable("short", 0.5, 4, many), tunable("long", 1.0, 8, many)]
    seen: list[int] = []

    def flat(task: Task, _option: Option) -> float:
        seen.append(task.output.shape[0])
        return 1.0

    searched(Shop(flat), tunables, database, seconds=2 * (VISIT + 1))
    assert seen == [8] * (VISIT + 1) + [4] * (VISIT + 1)  # 0.85 ** 6 < 0.5


def test_the_budget_ends_a_search(database: Database) -> None:
    many = [{"tile": i} for i in range(100)]
    shop = Shop(lambda _t, option: 100.0 - option.choice["tile"])  # type: ignore[operator]
    search = searched(shop, [tunable(space=many)], database, seconds=20)
    assert shop.clock.now <= 20
    assert search.winners()
    shop = Shop(lambda _t, _o: 1.0)
    assert searched(shop, [tunable("other", space=many)], database, seconds=0).tried == 0


def test_a_visit_ends_before_an_option_that_would_not_be_done_in_time(database: Database) -> None:
    shop = Shop(lambda _t, _o: 1.0, pace=lambda option: 1.0 if option.choice == SPACE[0] else 8.0)
    search = searched(shop, [tunable()], database, seconds=20)
    assert (search.tried, shop.clock.now) == (3, 17.0)  # the third option would end at 25
    assert len(shop.visits[0]) == 1 + VISIT
    assert len(database.attempts("k")) == 3


def test_a_machine_that_became_slower_gets_no_visit_that_it_has_no_time_for(database: Database) -> None:
    many = [{"tile": i} for i in range(100)]
    shop = Shop(lambda _t, _o: 1.0)
    shop.pace = lambda _o: 1.0 if len(shop.visits) < 3 else 10.0
    search = searched(shop, [tunable(space=many)], database, seconds=14 + 20 + 9)
    assert [len(visit) for visit in shop.visits] == [7, 7, 7]  # the third ends at 34, an option more would at 44
    assert (search.tried, shop.clock.now) == (7 + 6 + 1, 34.0)  # a default is counted once


def test_noise_is_no_gain(database: Database) -> None:
    search = searched(Shop(lambda _t, o: 1.0 if o.choice == SPACE[0] else 1.0 - (1 - GAIN) / 2), [tunable()], database)
    assert not search.winners()


def test_the_speed_of_the_machine_may_drift_between_visits(database: Database) -> None:
    """Everything takes half as long from the second visit on: no option is better for that."""
    shop = Shop(lambda _t, _o: 1.0)
    shop.times = lambda _t, _o: 1.0 if len(shop.visits) == 1 else 0.5
    search = searched(shop, [tunable()], database)
    assert len(shop.visits) > 1
    assert not search.winners()


def test_a_failed_option_is_remembered_and_is_no_winner(database: Database) -> None:
    def times(_task: Task, option: Option) -> float | Failed:
        return Failed("crash", "it fell") if option.choice["tile"] == 4 else 2.0 - (option.choice["tile"] == 3)

    search = searched(Shop(times), [tunable()], database)
    ((option, _),) = search.winners().values()
    assert option.choice["tile"] == 3
    assert {a.why for a in database.attempts("k") if a.choice["tile"] == 4} == {"it fell"}


def test_a_default_that_fails_leaves_the_task_alone(database: Database) -> None:
    shop = Shop(lambda _t, option: Failed("crash", "it fell") if option.choice == SPACE[0] else 1.0)
    search = searched(shop, [tunable()], database)
    assert not search.winners()
    assert len(shop.visits) == 1


def test_a_default_that_fails_later_does_not_undo_what_was_found(database: Database) -> None:
    shop = Shop(lambda _t, _o: 1.0)
    shop.times = lambda _t, o: Failed("crash", "it fell") if len(shop.visits) > 1 else 3.0 - (o.choice["tile"] == 2)
    search = searched(shop, [tunable()], database)
    assert len(shop.visits) == 2
    ((option, _),) = search.winners().values()
    assert option.choice["tile"] == 2


def test_what_the_database_knows_is_not_measured_again(database: Database) -> None:
    first = searched(Shop(slow_but(tile=4, order="b")), [tunable()], database)
    shop = Shop(slow_but())
    second = searched(shop, [tunable()], database)
    assert not shop.visits
    assert second.known == 1
    assert {k: o for k, (o, _) in second.winners().items()} == {k: o for k, (o, _) in first.winners().items()}


def test_a_search_goes_on_where_another_was_killed(database: Database) -> None:
    searched(Shop(slow_but(tile=4, order="b")), [tunable()], database, seconds=1)  # one visit
    tried = {str(a.choice) for a in database.attempts("k")}
    shop = Shop(slow_but(tile=4, order="b"))
    searched(shop, [tunable()], database)
    again = {str(choice) for visit in shop.visits for choice in visit[1:]}
    assert tried
    assert again
    assert not again & tried
    assert len(again | tried) == len(SPACE)


def test_results_are_kept_one_by_one(database: Database) -> None:
    """Whoever is killed while the third option is measured has the first two."""

    def times(_task: Task, option: Option) -> float:
        if option.choice == SPACE[2]:
            raise SystemExit  # as far as a test can go
        return 1.0

    with pytest.raises(SystemExit):
        searched(Shop(times), [tunable()], database)
    assert len(database.attempts("k")) == 2


def test_control_c_ends_the_search_and_keeps_what_was_found(database: Database) -> None:
    def times(_task: Task, option: Option) -> float:
        if option.choice == SPACE[4]:
            raise KeyboardInterrupt
        return 2.0 - (option.choice == SPACE[2])

    search = searched(Shop(times), [tunable()], database)
    assert search.interrupted
    ((option, _),) = search.winners().values()
    assert option.choice == SPACE[2]


def test_an_imported_record_counts_without_its_attempts(database: Database) -> None:
    database.record("k", Record("first", SPACE[5], 1.0, 2.0))
    exploration = recall(tunable(), database)
    assert exploration.best is not None
    assert exploration.best.choice == SPACE[5]
    assert exploration.default_seconds == 2.0
    assert exploration.won == 0.5


def test_records_of_choices_that_are_gone_are_ignored(database: Database) -> None:
    database.record("k", Record("first", {"tile": 99}, 1.0, 2.0))
    database.attempt("k", Attempt("gone", SPACE[1], 0.1))
    exploration = recall(tunable(), database)
    assert exploration.best is not None
    assert exploration.best.choice == SPACE[0]  # the default, which the record has a time for
    assert exploration.won == 0


def test_what_was_best_for_a_task_is_tried_first_for_its_siblings(database: Database) -> None:
    searched(Shop(slow_but(tile=4, order="b")), [tunable("one")], database)
    shop = Shop(slow_but())
    searched(shop, [tunable("one"), tunable("two")], database)
    assert shop.visits[0][:2] == [SPACE[0], {"tile": 4, "order": "b"}]
    shop = Shop(slow_but())
    searched(shop, [tunable("one"), tunable("of another shape", rows=4)], database)
    assert shop.visits[0][:2] == [SPACE[0], SPACE[1]]


def test_distance_counts_decisions_and_tries_other_templates_first() -> None:
    best = Option(FIRST, SPACE[0])
    assert [distance(Option(FIRST, choice), best) for choice in SPACE[:4]] == [0, 1, 1, 2]
    found = nearest([*(Option(FIRST, c) for c in SPACE), *(Option(SECOND, c) for c in SPACE)], best, {best.name}, 3)
    assert [(o.template.name, o.choice) for o in found] == [
        ("second", SPACE[0]), ("first", SPACE[1]), ("first", SPACE[2])
    ]  # fmt: skip


def test_options_are_of_all_templates_that_take_the_layouts_but_the_last() -> None:
    made = task()
    templates = [FIRST, SECOND, Fake("blocked", output="c16"), Fake("reads blocked", takes="c16"), LAST]
    names = [option.template.name for option in options_of(FIRST, made, templates)]
    assert names == ["first"] * len(SPACE) + ["second"] * 2
    assert options_of(FIRST, made, [FIRST, LAST])[0] == Option(FIRST, SPACE[0])
    assert not options_of(Fake("alone", []), made, [LAST])
    assert not options_of(Fake("one", SPACE[:1]), made, [LAST])


class Proposed:
    """A proposer of five options of another template."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.options = [Option(MetaSchedule(), {"trace": str(number)}) for number in range(5)]

    def propose(self, count: int, times: Mapping[Name, float | None]) -> list[Option]:
        self.asked.append(count)
        return [option for option in self.options if option.name not in times][:count]


def test_what_is_proposed_takes_half_of_a_visit_and_all_when_the_space_is_used_up(database: Database) -> None:
    proposer = Proposed()
    subject = replace(tunable(space=SPACE[:5]), proposer=proposer)
    shop = Shop(lambda _task, option: 1.0 if option.choice == {"trace": "3"} else 2.0)
    search = searched(shop, [subject], database)
    traces = [[choice["trace"] for choice in visit if "trace" in choice] for visit in shop.visits]
    assert traces == [["0", "1", "2"], ["3", "4"]]
    assert sorted(map(str, SPACE[:5])) == sorted({str(c) for visit in shop.visits for c in visit if "trace" not in c})
    ((option, record),) = search.winners().values()
    assert (option.template.name, option.choice, record.default_seconds) == ("metaschedule", {"trace": "3"}, 2.0)


def test_nobody_is_asked_to_propose_while_the_space_shows_that_something_is_left(database: Database) -> None:
    """Proposing takes time, and every task of a network is looked at before each visit."""
    proposer = Proposed()
    exploration = recall(replace(tunable(), proposer=proposer), database)
    assert exploration.following(1)
    assert proposer.asked == []


def test_what_was_proposed_in_an_earlier_search_is_known(database: Database) -> None:
    subject = replace(tunable(), proposer=Proposed())
    searched(Shop(lambda _task, option: 1.0 if option.choice == {"trace": "3"} else 2.0), [subject], database)
    again = recall(subject, database)
    assert again.best is not None
    assert again.best.choice == {"trace": "3"}
    assert recall(tunable(), database).best == again.best  # also by a search that does not ask for proposals
