"""What may be chosen for a task, and in which order it is worth trying.

options(task) = union over templates that take the task in the layouts it has:  {template} x template.space(task)

`nearest` walks outwards from the best option so far: first what differs from it in one decision, then in two, each
in the order of the space, which is that of the template's own estimate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..template import Choice, Task, Template, Wants
from .database import choice_text

FARTHEST = 2
"""Decisions in which an option may differ from the best one; what is left then is not tried."""

Name = tuple[str, str]
"""Template and choice as the database writes them."""


class Option(NamedTuple):
    """One kernel that a task may get."""

    template: Template
    choice: Choice

    @property
    def name(self) -> Name:
        """Equal for equal options."""
        return self.template.name, choice_text(self.choice)


class Proposer(Protocol):
    """Makes options that no space lists."""

    def propose(self, count: int, times: Mapping[Name, float | None]) -> list[Option]:
        """At most `count` options that are not in `times`, the seconds of those that were tried (None: failed)."""


@dataclass(frozen=True, eq=False)
class Tunable:
    """A task of a network that more than one kernel can do: equal layers are one."""

    key: str
    task: Task
    options: tuple[Option, ...]
    """The default first."""
    seconds: float
    """Of all its calls in one run of the untuned network."""
    proposer: Proposer | None = None

    @property
    def default(self) -> Option:
        """The untuned kernel."""
        return self.options[0]


def options_of(template: Template, task: Task, templates: Sequence[Template]) -> tuple[Option, ...]:
    """Every kernel for a task that `template` took, the default first; empty if there is nothing to choose.

    The last template takes everything and is no rival to those made for a task.
    """
    others = [other for other in templates[:-1] if other.name != template.name and _replaces(other, template, task)]
    found = [Option(template, choice) for choice in template.space(task)]
    if others and not found:
        found = [Option(template, template.emit(task).choice)]
    found += [Option(other, choice) for other in others for choice in other.space(task)]
    return tuple(found) if len(found) > 1 else ()


def _replaces(other: Template, template: Template, task: Task) -> bool:
    """Whether `other` takes the task in the layouts that it has."""
    wants, taken = other.wants(task), template.wants(task)
    if not isinstance(wants, Wants) or not isinstance(taken, Wants):
        return False
    inputs = ((task.inputs[i].layout, layouts) for i, layouts in wants.inputs.items() if i not in task.constants)
    return wants.output == taken.output and all(layout in layouts for layout, layouts in inputs)


def nearest(
    options: Iterable[Option], best: Option, tried: Collection[Name], count: int, hints: Collection[Name] = ()
) -> list[Option]:
    """At most `count` untried options: those hinted at first, then those that differ least from the best one."""
    ranked: list[tuple[int, int, Option]] = []
    seen = {best.template.name}
    for place, option in enumerate(options):
        far = distance(option, best, first=option.template.name not in seen)
        seen.add(option.template.name)
        hinted = option.name in hints
        if option.name not in tried and (hinted or far <= FARTHEST):
            ranked.append((-1 if hinted else far, place, option))
    ranked.sort(key=lambda entry: entry[:2])
    return [option for _, _, option in ranked[:count]]


def distance(option: Option, best: Option, first: bool = False) -> int:
    """In how many decisions two options differ. Another template's `first` option is tried before all others."""
    if option.template.name != best.template.name:
        return 0 if first else FARTHEST + 1
    names = {*option.choice, *best.choice}
    return sum(option.choice.get(name) != best.choice.get(name) for name in names)
