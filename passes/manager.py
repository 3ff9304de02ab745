"""Runs passes in order and holds each to its contract:  run_passes(p, [a, b]) == b(a(p)), checked after each pass.

    run_passes(q, [Repeat(passes)]) == q    for q = run_passes(p, [Repeat(passes)])

Checked on the *result*: the signature is the one that came in, the stage that the pass promises is reached, and the
graph keeps every invariant of its stage. What each pass did is appended to `program.report`.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..errors import OptionError, VerifyError
from ..ir.program import Program, Stage
from ..ir.report import PassReport, Site
from ..ir.verify import verify as verify_program
from .base import Pass, Repeat, Step

Trace = Callable[[Pass, Program, Program], None]
"""Called after every pass that is reported, with the programs before and after it."""


def run_passes(
    program: Program,
    passes: Iterable[Step],
    *,
    verify: bool = False,
    limit: int | None = None,
    trace: Trace | None = None,
) -> Program:
    """Run the passes; the program given stays as it was.

    `verify` compares every rewrite with float64 at its boundary. `limit` stops after that many rewrites in
    all, for bisecting: the pass it stops in does not reach its stage, and later passes do not run.
    """
    run = _Run(program, verify, limit, trace)
    for step in passes:
        if isinstance(step, Repeat):
            run.repeat(step)
        elif not run.stopped:
            run.once(step)
    return run.program


def print_trace(step: Pass, before: Program, after: Program) -> None:
    """A `trace` that prints what each pass changed, as a diff of the text form."""
    lines = difflib.unified_diff(str(before).splitlines(), str(after).splitlines(), "before", "after", lineterm="", n=1)
    applied = len(after.report[-1].applied)
    print("\n".join([f"{step.name}: {applied} rewrites", *list(lines)[2:]]))


def count_nodes(program: Program) -> int:
    """How many calls the graph makes."""
    return sum(node.op in ("call_function", "call_module") for node in program.graph.nodes)


@dataclass
class _Run:
    """A program on its way, and how many rewrites it has had."""

    program: Program
    verify: bool
    limit: int | None
    trace: Trace | None
    rewrites: int = 0

    @property
    def stopped(self) -> bool:
        """Whether as many rewrites were done as are allowed."""
        return self.limit is not None and self.rewrites >= self.limit

    def once(self, step: Pass) -> None:
        """Run a pass and report it."""
        self._take(step, _run(step, self.program, self._left, self.verify))

    def repeat(self, group: Repeat) -> None:
        """Run a group of passes until each has seen the program as it is now."""
        seen: dict[Pass, int] = {}
        for number in range(group.rounds):
            for step in group.passes:
                if self.stopped or (number and seen[step] == self.rewrites):
                    continue
                self.once(step) if not number else self._again(step)
                seen[step] = self.rewrites
            if self.stopped or all(rewrites == self.rewrites for rewrites in seen.values()):
                return
        raise _endless(group, self.program)

    def _again(self, step: Pass) -> None:
        """Run a pass that ran before; of its refusals only those are reported that it has not said."""
        after = _run(step, self.program, self._left, self.verify)
        report = after.report[-1]
        said = {_key(site) for entry in self.program.report if entry.name == step.name for site in entry.refused}
        report = replace(report, refused=tuple(site for site in report.refused if _key(site) not in said))
        if report.applied or report.refused:
            self._take(step, after.evolve(report=(*self.program.report, report)))

    def _take(self, step: Pass, after: Program) -> None:
        self.rewrites += len(after.report[-1].applied)
        if self.trace is not None:
            self.trace(step, self.program, after)
        self.program = after

    @property
    def _left(self) -> int | None:
        return None if self.limit is None else self.limit - self.rewrites


def _key(site: Site) -> tuple[str, str, str | None]:
    return site.rule, site.node, site.reason


def _endless(group: Repeat, program: Program) -> VerifyError:
    """Passes that undo each other, by the last things they did."""
    recent = [entry for entry in program.report if entry.applied][-len(group.passes) :]
    last = {entry.name: ", ".join(entry.applied[-1].layers) or entry.applied[-1].node for entry in recent}
    passes = ", ".join(f"{name} (at {where})" for name, where in last.items())
    return VerifyError(
        f"The passes of {group.name!r} still rewrite after {group.rounds} rounds; the last were {passes}.",
        "Mend the pass that undoes what another did, or leave it out.",
    )


def _run(step: Pass, program: Program, limit: int | None, verify: bool) -> Program:
    if program.stage < step.requires:
        raise OptionError(
            f"Pass {step.name} needs a program at stage {step.requires.name}, this one is {program.stage.name}.",
            "Run the passes that lead there first, in the order of `passes/pipelines.py`.",
        )
    start = time.perf_counter()
    after, applied, refused = step.run(program, limit=limit, verify=verify)
    seconds = time.perf_counter() - start
    if after.signature != program.signature:
        raise VerifyError(f"Pass {step.name} changed the signature to {after.signature}.", "Mend the pass.")
    stopped = limit is not None and len(applied) >= limit
    report = PassReport(
        step.name, tuple(applied), tuple(refused), count_nodes(program), count_nodes(after), round(seconds, 6)
    )
    stage = after.stage if stopped else _reached(step, program.stage)
    same = (after.graph, stage) == (program.graph, program.stage)
    after = after.evolve(stage=stage, report=(*program.report, report))
    if same and program.report:  # this very graph was checked after the pass before
        return after
    try:
        verify_program(after, values=verify)
    except VerifyError as error:
        raise VerifyError(f"After pass {step.name}: {error.what}", error.todo) from error
    return after


def _reached(step: Pass, stage: Stage) -> Stage:
    return stage if step.ensures is None else max(stage, step.ensures)
