"""Tuning one network: profile it, search, confirm what was found inside it.

tune(build, budget) = the faster of  build(default kernels)  and  build(winners that are faster in the network)

`known` is tuning without measuring: what a database knows of the tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..generic.metaschedule import NAME as METASCHEDULE
from ..generic.metaschedule import MetaSchedule
from ..template import Chooser, Chosen, Refused, Task, Template
from .confirm import SECONDS, Network, Quiet, compare, losers
from .database import Attempt, Database, Record, choice_text
from .evolution import Evolution
from .keys import describe, task_key
from .search import Search, Standing, Workshop
from .spaces import Option, Proposer, Tunable, options_of

RESERVE = 0.2
"""The share of the budget that is kept for building and timing the tuned network, at least."""


def searching(budget: float, building: float) -> float:
    """Seconds for the search: what is kept has to do for comparing and, as far as `RESERVE` goes, for `building`.

    Never more than half is kept: of a budget of a few seconds, most would go to comparing what was not looked for.
    """
    kept = RESERVE * budget
    return budget - min(max(kept, min(kept, building) + 2 * SECONDS), budget / 2)


Build = Callable[[Chooser], Network]
"""Compiles the network with the kernels that a chooser decides on."""

PUT_BACK = "not faster than the default inside a network"
"""Why a winner's attempt has failed after all."""


@dataclass
class Summary:
    """What tuning did, for the manifest. Milliseconds are those of a run of the network."""

    budget: float = 0.0
    seconds: float = 0.0
    tasks: int = 0
    known: int = 0
    tried: int = 0
    kept: int = 0
    put_back: int = 0
    interrupted: bool = False
    untuned_ms: float | None = None
    tuned_ms: float | None = None
    metaschedule: dict[str, Any] | None = None
    """Where it was asked for: tasks that it searched, kernels of its that were kept, and what it cannot take."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Tasks:
    """A chooser that writes down which tasks there are, and that leaves them their default kernels."""

    def __init__(self, machine: str | None = None) -> None:
        """`machine` names the CPU that measures, this one by default."""
        self._machine = machine
        self.found: dict[str, tuple[Template, Task]] = {}
        self.of_output: dict[str, str] = {}
        """The key of the task that makes each value."""

    def __call__(self, template: Template, task: Task) -> Chosen:
        """Write down."""
        key = task_key(task, self._machine)
        self.found.setdefault(key, (template, task))
        self.of_output[task.output.name] = key
        return Chosen(template)


@dataclass(frozen=True, eq=False)
class Winners:
    """A chooser that knows better kernels for some tasks."""

    options: Mapping[str, tuple[Option, Record]]
    machine: str | None = None

    def __call__(self, template: Template, task: Task) -> Chosen:
        """The better kernel, or the default."""
        found = self.options.get(task_key(task, self.machine))
        return Chosen(template) if found is None else _tuned(*found)


class Known:
    """A chooser that takes what a database knows, without measuring anything."""

    def __init__(self, database: Database, templates: Sequence[Template], machine: str | None = None) -> None:
        """`summary` is filled as the network is lowered; `machine` names the CPU that measured, this one by default."""
        self._database, self._templates, self._machine = database, templates, machine
        self._chosen: dict[str, Chosen] = {}
        self.summary = Summary()

    def __call__(self, template: Template, task: Task) -> Chosen:
        """The recorded kernel, if there still is such a choice."""
        key = task_key(task, self._machine)
        if key not in self._chosen:
            self._chosen[key] = self._find(key, template, task)
        return self._chosen[key]

    def _find(self, key: str, template: Template, task: Task) -> Chosen:
        record = self._database.best(key)
        self.summary.tasks += 1
        if record is not None and record.template == METASCHEDULE and template.name == self._templates[-1].name:
            self.summary.known, self.summary.kept = self.summary.known + 1, self.summary.kept + 1
            return _tuned(Option(MetaSchedule(), record.choice), record)
        for option in options_of(template, task, self._templates) if record is not None else ():
            if record is not None and option.name == (record.template, choice_text(record.choice)):
                default = option.name == (template.name, choice_text(template.emit(task).choice))
                self.summary.known += 1
                self.summary.kept += not default
                return Chosen(template) if default else _tuned(option, record)
        return Chosen(template)


def _refuse(summary: Summary, task: Task, why: str) -> None:
    """Say that MetaSchedule does not take a task."""
    if summary.metaschedule is not None:
        entry = {"task": describe(task), "layers": list(task.region.layers), "why": why}
        summary.metaschedule["refused"].append(entry)


def _tuned(option: Option, record: Record) -> Chosen:
    return Chosen(*option, {"seconds": record.seconds, "default_seconds": record.default_seconds})


class Tuner:
    """Tunes one network within a budget of seconds, which begins with `tune`."""

    def __init__(
        self,
        templates: Sequence[Template],
        workshop: Workshop,
        database: Database,
        quiet: Quiet,
        machine: str | None = None,
        metaschedule: bool = False,
    ) -> None:
        """`quiet` keeps other tuners of this machine away while networks are timed.

        With `metaschedule`, TVM's MetaSchedule proposes kernels for what the last template takes.
        """
        self._templates, self._workshop, self._database = templates, workshop, database
        self._metaschedule = metaschedule
        self._quiet = quiet
        self._machine = machine

    def tune(
        self,
        build: Build,
        untuned: Network,
        tasks: Tasks,
        budget: float,
        report: Callable[[Standing], None] = lambda _: None,
        building: float = 0.0,
    ) -> tuple[Chooser, Summary]:
        """The chooser of the fastest network that was built; that of `untuned` was `tasks`, in `building` seconds.

        Ctrl-C ends the search, and what it found is used; a second one ends everything.
        """
        began = time.monotonic()
        summary = Summary(budget)
        with self._quiet():
            untuned.run()
            seconds = untuned.by_task()
        tunables = {t.key: t for t in self._tunables(tasks, seconds, summary)}
        search = Search(list(tunables.values()), self._workshop, self._database)
        summary.tasks, summary.known = len(search.explorations), search.known
        search.run(began + searching(budget, building), report)
        for tunable in tunables.values():
            if isinstance(tunable.proposer, Evolution) and tunable.proposer.failed:
                _refuse(summary, tunable.task, f"TVM failed: {tunable.proposer.failed}")
        summary.tried, summary.interrupted = search.tried, search.interrupted
        confirmed = self._confirm(build, untuned, dict(search.winners()), tunables, summary, began + budget)
        kept = [] if confirmed is None else [option for option, _ in confirmed.options.values()]
        summary.kept = len(kept)
        if summary.metaschedule is not None:
            summary.metaschedule["kept"] = sum(option.template.name == METASCHEDULE for option in kept)
        summary.seconds = time.monotonic() - began
        return confirmed or tasks, summary

    def _tunables(self, tasks: Tasks, seconds: Mapping[str, float], summary: Summary) -> list[Tunable]:
        """Tasks that there is something to choose for."""
        found = []
        if self._metaschedule:
            summary.metaschedule = {"tasks": 0, "kept": 0, "refused": []}
        for key, (template, task) in tasks.found.items():
            if options := options_of(template, task, self._templates):
                proposer = self._proposer(template, task, summary)
                found.append(Tunable(key, task, options, seconds.get(key, 0.0), proposer))
        return found

    def _proposer(self, template: Template, task: Task, summary: Summary) -> Proposer | None:
        """MetaSchedule for a task without a template of its own, where it was asked for and can take it."""
        if summary.metaschedule is None or template.name != self._templates[-1].name:
            return None
        wants = MetaSchedule().wants(task)
        if isinstance(wants, Refused):
            _refuse(summary, task, wants.reason)
            return None
        summary.metaschedule["tasks"] += 1
        return Evolution(task)

    def _confirm(
        self,
        build: Build,
        untuned: Network,
        winners: dict[str, tuple[Option, Record]],
        tunables: Mapping[str, Tunable],
        summary: Summary,
        until: float,
    ) -> Winners | None:
        """Those winners that are faster in the network; None if the network is not faster with them.

        Where there is no time to build it without those that are not, the network with them has to be faster.
        """
        if not winners:
            return None
        choose = Winners(winners, self._machine)
        began = time.monotonic()
        tuned = build(choose)
        built = time.monotonic()
        slower = losers(untuned, tuned, list(winners), self._quiet, (until - built) / 2)
        summary.put_back = len(slower)
        if slower:
            for key in slower:
                self._put_back(tunables[key], *winners[key])
            choose = Winners({key: winners[key] for key in winners if key not in slower}, self._machine)
            if not choose.options:
                return None
            if until - time.monotonic() > built - began:
                tuned = build(choose)
        before, after = compare(untuned, tuned, self._quiet, until - time.monotonic())
        summary.untuned_ms, summary.tuned_ms = 1e3 * before, 1e3 * min(before, after)
        return choose if after < before else None

    def _put_back(self, tunable: Tunable, option: Option, record: Record) -> None:
        """The database, too, learns that a winner was none."""
        template, choice = tunable.default
        default = Record(template.name, choice, record.default_seconds, record.default_seconds, record.what)
        failed = Attempt(option.template.name, option.choice, None, PUT_BACK)
        self._database.record(tunable.key, default, replace=True)  # first: a kill in between leaves no failed winner
        self._database.attempt(tunable.key, failed)
