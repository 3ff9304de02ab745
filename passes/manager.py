"""Runs passes in order and holds each to its contract:  run_passes(p, [a, b]) == b(a(p)), checked after each pass.

Checked on the *result*: the signature is the one that came in, the stage that the pass promises is reached, and the
graph keeps every invariant of its stage. What each pass did is appended to `program.report`.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable

from ..errors import OptionError, VerifyError
from ..ir.program import Program, Stage
from ..ir.report import PassReport
from ..ir.verify import verify as verify_program
from .base import Pass

Trace = Callable[[Pass, Program, Program], None]
"""Called after every pass with the programs before and after it."""


def run_passes(
    program: Program,
    passes: Iterable[Pass],
    *,
    verify: bool = False,
    limit: int | None = None,
    trace: Trace | None = None,
) -> Program:
    """Run the passes; the program given stays as it was.

    `verify` compares every rewrite with float64 at its boundary. `limit` stops after that many rewrites in
    all, for bisecting: the pass it stops in does not reach its stage, and later passes do not run.
    """
    done = 0
    for step in passes:
        left = None if limit is None else limit - done
        if left is not None and left <= 0:
            break
        after = _run(step, program, left, verify)
        done += len(after.report[-1].applied)
        if trace is not None:
            trace(step, program, after)
        program = after
    return program


def print_trace(step: Pass, before: Program, after: Program) -> None:
    """A `trace` that prints what each pass changed, as a diff of the text form."""
    lines = difflib.unified_diff(str(before).splitlines(), str(after).splitlines(), "before", "after", lineterm="", n=1)
    applied = len(after.report[-1].applied)
    print("\n".join([f"{step.name}: {applied} rewrites", *list(lines)[2:]]))


def count_nodes(program: Program) -> int:
    """How many calls the graph makes."""
    return sum(node.op in ("call_function", "call_module") for node in program.graph.nodes)


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
    after = after.evolve(stage=stage, report=(*program.report, report))
    try:
        verify_program(after, values=verify)
    except VerifyError as error:
        raise VerifyError(f"After pass {step.name}: {error.what}", error.todo) from error
    return after


def _reached(step: Pass, stage: Stage) -> Stage:
    return stage if step.ensures is None else max(stage, step.ensures)
