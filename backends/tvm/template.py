"""What a kernel template is: it says whether and in which layouts it takes a region, then emits its PrimFunc.

    wants(task) -> Wants | Refused        space(task) -> choices        emit(task, choice) -> Lowered

Templates are tried in the order of `kernels.TEMPLATES`; the generic scheduler is the last and takes every
region whose ops `ops/` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...ir.program import Region
from .plan import PLAIN, Layout, Value
from .target import Target

Choice = Mapping[str, int | str | bool]
"""Tuning decisions by name. Every choice of a space makes a right kernel; results may differ in rounding only."""


def distinct(choices: Iterable[Choice]) -> list[Choice]:
    """Choices in their order, each once."""
    return [dict(items) for items in dict.fromkeys(tuple(choice.items()) for choice in choices)]


@dataclass(frozen=True, eq=False)
class Task:
    """A region to be lowered: `inputs[i]` is what the i-th placeholder receives.

    `constants` are the positions whose value is a weight (they arrive PLAIN and may be packed). `output`
    has the logical shape and dtype; its layout is what the template chooses.
    """

    region: Region
    inputs: tuple[Value, ...]
    constants: frozenset[int]
    output: Value
    target: Target
    hint: Layout = PLAIN
    """The layout asked for the output; a template that can make only one makes that one."""
    numerics: str = "fast"
    """"fast", or "strict": only kernels that compute each result directly, so that NaN and inf stay where they are."""
    within: frozenset[int] = frozenset()
    """Inputs that lie in the output's memory: an operand at whose place the result is stored, each element after it
    is read, or parts of a concatenation that are where they belong. They are no arguments of the kernel."""


@dataclass(frozen=True)
class Wants:
    """Layouts a template takes (`inputs[position]` -> acceptable layouts, the preferred one first) and makes.

    Positions that are missing are taken in any layout.
    """

    inputs: Mapping[int, tuple[Layout, ...]]
    output: Layout


@dataclass(frozen=True)
class Refused:
    """Why a template does not take a region."""

    reason: str


@dataclass(frozen=True, eq=False)
class Derive:
    """How a kernel's argument is made from the stored array when an artifact is loaded: `func(stored, made)`.

    For forms that are larger than the weight: the file and its pages in memory hold the weight once. `func` is a
    PrimFunc over 64-byte aligned buffers, `key` names what it does.
    """

    key: str
    func: Any
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Packed:
    """A kernel argument made from the weight at `position`: `pack(weight) -> array`, which the artifact stores.

    With `derive`, the argument is what that makes of the stored array. `key` names the packing.
    """

    position: int
    key: str
    pack: Callable[[np.ndarray], np.ndarray]
    derive: Derive | None = None


@dataclass(frozen=True, eq=False)
class Lowered:
    """A kernel and how to call it: the PrimFunc's parameters are `args` in order, then the output.

    An argument is a placeholder's position or a `Packed` weight. `choice` are the tuning decisions.
    """

    func: Any
    args: tuple[int | Packed, ...]
    output: Layout
    choice: Choice = field(default_factory=dict)
    agreement: str = "near"
    """What tuning asks of the result: "near" the default kernel's; "exact": equal to it; or "bar": besides, as near to
    float64 as every kernel of planish. Templates prove theirs in tests; what TVM makes of blocks is tested there."""


class Template(Protocol):
    """One family of kernels."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def wants(self, task: Task) -> Wants | Refused:
        """Say which layouts the region is taken in, or why not."""

    def space(self, task: Task) -> Sequence[Choice]:
        """What tuning may choose from, the default first; empty where there is nothing to choose."""

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Make the kernel for a choice of the space, None for the default; inputs are as `wants` accepted."""


class Chosen(NamedTuple):
    """The kernel to emit for a task: a template and its choice, None for the default.

    `tuned` says what a choice that was measured is worth: "seconds" of it and of the default kernel.
    """

    template: Template
    choice: Choice | None = None
    tuned: Mapping[str, float] | None = None


Chooser = Callable[[Template, Task], Chosen]
"""Decides on the kernel of a task that a template has taken; the answer has the same layouts."""


def default_kernel(template: Template, _task: Task) -> Chosen:
    """The untuned kernel of the template that took the task."""
    return Chosen(template)
