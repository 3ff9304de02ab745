"""The search for faster kernels under a budget of seconds: at any moment the best found so far stands.

next task = the one that promises most:   seconds of its calls in a run of the network * chance that they get fewer

The chance starts at LIKELY and sinks with each option that was no better. A visit compiles some options of one task
on all cores, then measures them alone, the default among them: times are compared within a visit only, as the speed
of a machine drifts. What the database knows is not measured again.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..generic.metaschedule import NAME as METASCHEDULE
from ..generic.metaschedule import MetaSchedule
from ..template import Task
from .candidate import Failed
from .database import Attempt, Database, Record, choice_text
from .keys import describe
from .spaces import Name, Option, Tunable, nearest

LIKELY = 0.2
"""The share of a task's time that its first option is hoped to save."""

FADING = 0.85
"""What is left of that hope after an option that was no better."""

GAIN = 0.99
"""An option counts as better below this share of the best one's time: less is noise."""

VISIT = 6
"""Options in a visit, beside the default."""


class Workshop(Protocol):
    """Makes kernels and times them."""

    def seconds(self, task: Task, options: Sequence[Option]) -> Iterator[float | Failed]:
        """Seconds a call of each option, in order as they are measured; the first is the default."""


class Standing(NamedTuple):
    """How a search stands: seconds of the network's run won so far, of how many; options tried; seconds left."""

    won: float
    total: float
    tried: int
    left: float


@dataclass
class Exploration:
    """What is known of one task."""

    tunable: Tunable
    times: dict[Name, float | None] = field(default_factory=dict)
    """Seconds of each option that was tried; None if it failed."""
    best: Option | None = None
    misses: int = 0
    siblings: list[Exploration] = field(default_factory=list, repr=False)
    """This and other tasks with the same options, as layers of equal shapes with different epilogues are: what is
    best for one may well be best for all."""

    @property
    def default_seconds(self) -> float | None:
        """Of the untuned kernel, if it was measured."""
        return self.times.get(self.tunable.default.name)

    @property
    def best_seconds(self) -> float | None:
        """Of the best option."""
        return None if self.best is None else self.times[self.best.name]

    @property
    def won(self) -> float:
        """Seconds that a run of the network is expected to save."""
        if not self.default_seconds or self.best_seconds is None:
            return 0.0
        return max(0.0, self.tunable.seconds * (1 - self.best_seconds / self.default_seconds))

    def promise(self) -> float:
        """Seconds of a run that the next option may save."""
        others = sum(sibling.misses for sibling in self.siblings if sibling is not self)
        return (self.tunable.seconds - self.won) * LIKELY * float(FADING ** (self.misses + others / 2))

    def following(self, count: int = VISIT) -> list[Option]:
        """The options to try next; none if all that are worth it were tried, or if the default does not work."""
        if self.tunable.default.name in self.times and self.default_seconds is None:
            return []
        known = {*self.times, self.tunable.default.name}
        hints = {sibling.best.name for sibling in self.siblings if sibling.best is not None}
        listed = nearest(self.tunable.options, self._center(), known, count, hints)
        proposer = self.tunable.proposer
        if proposer is None or (count == 1 and listed):
            return listed
        proposed = proposer.propose(max(count // 2, count - len(listed)), self.times)
        return [*listed[: count - len(proposed)], *proposed]

    def _center(self) -> Option:
        """The best option of those that are listed."""
        listed = {option.name: option for option in self.tunable.options}
        if self.best is None or self.best.name in listed:
            return self.best or self.tunable.default
        tried = [(seconds, name) for name in listed if (seconds := self.times.get(name)) is not None]
        return listed[min(tried)[1]] if tried else self.tunable.default

    def learn(self, option: Option, seconds: float | None) -> bool:
        """Take a result into account; whether it is the best so far."""
        self.times[option.name] = seconds
        if seconds is not None and (self.best_seconds is None or seconds < GAIN * self.best_seconds):
            self.best, self.misses = option, 0
            return True
        self.misses += 1
        return False

    def record(self) -> Record | None:
        """What the database keeps of the best option."""
        if self.best is None or self.best_seconds is None or self.default_seconds is None:
            return None
        what = describe(self.tunable.task)
        return Record(self.best.template.name, self.best.choice, self.best_seconds, self.default_seconds, what)


class Search:
    """A search over the tasks of one network."""

    def __init__(
        self,
        tunables: Sequence[Tunable],
        workshop: Workshop,
        database: Database,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start from what the database knows."""
        self._workshop = workshop
        self._database = database
        self._clock = clock
        self.explorations = [recall(tunable, database) for tunable in tunables]
        alike: dict[tuple[object, ...], list[Exploration]] = {}
        for exploration in self.explorations:
            exploration.siblings = alike.setdefault(_family(exploration.tunable), [])
            exploration.siblings.append(exploration)
        self.known = sum(exploration.best is not None for exploration in self.explorations)
        self.tried = 0
        self._paces: list[float] = []
        """Seconds an option took in each visit."""
        self.interrupted = False

    def run(self, until: float, report: Callable[[Standing], None] = lambda _: None) -> None:
        """Search until the time `until` (of the clock), or until nothing is left to try; Ctrl-C ends it, too."""
        try:
            while (exploration := self._most_promising()) is not None:
                started, tried = self._clock(), self.tried
                if (count := self._affordable(until - started)) < 1:
                    return
                self._visit(exploration, count, until)
                self._paces.append((self._clock() - started) / max(1, self.tried - tried))
                report(self.standing(until))
        except KeyboardInterrupt:
            self.interrupted = True

    def _affordable(self, seconds: float) -> int:
        """How many options there is time for, as far as one can tell."""
        if seconds <= 0 or not self._paces:
            return VISIT if seconds > 0 else 0
        return min(VISIT, int(seconds / max(statistics.median(self._paces), self._paces[-1])))

    def winners(self) -> Mapping[str, tuple[Option, Record]]:
        """By key, the options that are better than the default, with what the database keeps of them."""
        found = {}
        for exploration in self.explorations:
            record = exploration.record()
            if record is not None and exploration.best is not None and exploration.won > 0:
                found[exploration.tunable.key] = exploration.best, record
        return found

    def standing(self, until: float) -> Standing:
        """How it stands."""
        won = sum(exploration.won for exploration in self.explorations)
        total = sum(exploration.tunable.seconds for exploration in self.explorations)
        return Standing(won, total, self.tried, max(0.0, until - self._clock()))

    def _most_promising(self) -> Exploration | None:
        open_ = (exploration for exploration in self.explorations if exploration.following(1))
        return max(open_, key=Exploration.promise, default=None)

    def _visit(self, exploration: Exploration, count: int, until: float) -> None:
        """Try some options of a task, as long as there is time for one that takes as long as the slowest before it."""
        default, options = exploration.tunable.default, exploration.following(count)
        times = self._workshop.seconds(exploration.tunable.task, [default, *options])
        known, first = exploration.default_seconds, next(times)
        if known is None:
            self._learn(exploration, default, first)
        elif isinstance(first, Failed):  # it worked before, so that nothing is wrong with the options
            exploration.times |= dict.fromkeys((option.name for option in options), None)
            return
        drift = 1.0 if known is None or isinstance(first, Failed) else known / first
        slowest, now = 0.0, self._clock()
        for option in options:
            if now + slowest > until:
                return
            result = next(times)
            self._learn(exploration, option, result if isinstance(result, Failed) else drift * result)
            before, now = now, self._clock()
            slowest = max(slowest, now - before)

    def _learn(self, exploration: Exploration, option: Option, result: float | Failed) -> None:
        """Remember a result here and in the database, at once: whoever kills the search loses nothing before it."""
        self.tried += 1
        seconds, why = (None, result.why) if isinstance(result, Failed) else (result, "")
        key = exploration.tunable.key
        self._database.attempt(key, Attempt(option.template.name, option.choice, seconds, why))
        if exploration.learn(option, seconds) and (record := exploration.record()) is not None:
            self._database.record(key, record)


def _family(tunable: Tunable) -> tuple[object, ...]:
    """Equal for tasks whose anchors compute the same from the same shapes."""
    anchor = tunable.task.region.anchor_node
    shapes = () if anchor is None else tuple(tuple(node.meta["val"].shape) for node in anchor.all_input_nodes)
    return (anchor is not None and str(anchor.target), shapes, tuple(option.name for option in tunable.options))


def recall(tunable: Tunable, database: Database) -> Exploration:
    """What the database knows of a task, of options that there still are."""
    exploration = Exploration(tunable)
    known = {(a.template, choice_text(a.choice)): a.seconds for a in database.attempts(tunable.key)}
    if (record := database.best(tunable.key)) is not None:  # one that was imported comes without its attempts
        known.setdefault((record.template, choice_text(record.choice)), record.seconds)
        known.setdefault(tunable.default.name, record.default_seconds)
    proposed = (Option(MetaSchedule(), json.loads(choice)) for template, choice in known if template == METASCHEDULE)
    for option in (*tunable.options, *proposed):
        if option.name in known:
            exploration.learn(option, known[option.name])
    return exploration
