"""What a pass is: a frozen dataclass with a stage contract, a numerics promise, and pure rules.

    run(program) -> program'   with   eager(program') == eager(program)   up to `numerics`

One pass a file, of the same verb-first name; `manager.run_passes` holds it to its stages. A pipeline is a tuple of
steps: passes, and groups of passes that are repeated until none of them finds anything to do.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..ir.program import Program, Stage
from ..ir.report import Site
from ..ir.rewrite import apply_rules
from ..ir.rules import Rule


class Numerics(enum.Enum):
    """What a pass may do to the numbers."""

    EXACT = "same bits"
    ROUNDS = "equal over the reals"
    APPROXIMATES = "changes the function; off unless asked for"


@dataclass(frozen=True)
class Pass:
    """A rewrite of Programs. Subclasses set the class fields and `rules`, or override `run`."""

    name: ClassVar[str]
    requires: ClassVar[Stage] = Stage.NORMALIZED
    ensures: ClassVar[Stage | None] = None
    numerics: ClassVar[Numerics] = Numerics.ROUNDS

    def rules(self) -> Sequence[tuple[str, Rule]]:
        """(name, rule) pairs, tried in this order at each node."""
        return ()

    def run(
        self, program: Program, *, limit: int | None = None, verify: bool = False
    ) -> tuple[Program, list[Site], list[Site]]:
        """Return the new program with the sites applied and refused; `program` stays as it was."""
        return apply_rules(program, self.rules(), limit=limit, verify=verify)


@dataclass(frozen=True)
class Repeat:
    """Passes in order, again and again until none has anything left to do:  run(run(program)) == run(program).

    Only passes whose input was rewritten since they last looked run again. Passes that still rewrite in the last
    of `rounds` undo each other, which is an error.
    """

    name: str
    passes: tuple[Pass, ...]
    rounds: int = 100


Step = Pass | Repeat
"""What a pipeline is made of."""


def flat(steps: Iterable[Step]) -> tuple[Pass, ...]:
    """The passes of a pipeline in the order of their first run."""
    return tuple(p for step in steps for p in (step.passes if isinstance(step, Repeat) else (step,)))
