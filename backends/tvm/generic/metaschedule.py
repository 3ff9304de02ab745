"""A template whose choices are schedules that TVM's MetaSchedule made of the generic scheduler's blocks.

emit(task, {"trace": t}) = lower(apply(t, blocks(task)))

A trace is the list of what was done to the loops, with every number in it, so that the kernel is the same whenever it
is made again. It moves, splits and orders loops around the formulas that the generic scheduler would have written:
polynomials, NaN and casts are the same. Only for tasks of the generic scheduler, and only on request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....errors import TuningError
from ..compat import s_tir, tvm
from ..shifted import protect
from ..template import Choice, Lowered, Refused, Task, Wants
from .blocks import Blocks, write_blocks
from .template import output_layout

NAME = "metaschedule"

_MOVES = """
    Annotate ComputeAt ComputeInline CacheWrite DecomposeReduction EnterPostproc Fuse GetChildBlocks GetConsumers
    GetLoops GetProducers GetSBlock Parallel RFactor Reorder ReverseComputeAt ReverseComputeInline SampleCategorical
    SampleComputeLocation SamplePerfectTile Split Unannotate Unroll Vectorize
"""
"""What may be done to loops: TVM checks that each of these keeps what is computed."""

_NOTES = ("meta_schedule.", "pragma_auto_unroll_max_step", "pragma_unroll_explicit")
"""What may be noted at a loop or block."""


@dataclass(frozen=True)
class MetaSchedule:
    """Blocks, and a schedule of them."""

    name: str = NAME

    def wants(self, task: Task) -> Wants | Refused:
        """What can be written in blocks, in any layout."""
        written = write_blocks(task)
        return written if isinstance(written, Refused) else Wants({}, output_layout(task))

    def space(self, task: Task) -> Sequence[Choice]:
        """Nothing is listed: MetaSchedule proposes (`tune/evolution.py`)."""
        return ()

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """The kernel of a trace; without one, loops as they are written."""
        written = blocks_of(task)
        schedule = s_tir.Schedule(tvm.IRModule({"main": written.func}))
        if choice is not None:
            apply(schedule, str(choice["trace"]))
        agreement = "exact" if written.exact else "bar"
        return Lowered(protect(schedule.mod["main"]), written.args, written.layout, choice or {}, agreement)


def blocks_of(task: Task) -> Blocks:
    """The task in blocks; TuningError if it cannot be written so."""
    written = write_blocks(task)
    if isinstance(written, Refused):
        raise TuningError(f"MetaSchedule cannot take {task.region.name}: {written.reason}.", "Leave metaschedule out.")
    return written


def apply(schedule: Any, text: str) -> None:
    """Do to a schedule what a trace says; TuningError for what is no trace of this function's."""
    try:
        trace = json.loads(text)
        for kind, _, details, _ in trace[0]:
            note = str(details[0]) if kind in ("Annotate", "Unannotate") else None
            if kind not in _MOVES.split() or not (note is None or note.startswith(_NOTES)):
                raise ValueError(f"{note or kind} is nothing that MetaSchedule does to loops")
        s_tir.schedule.Trace.apply_json_to_schedule(trace, schedule)
    except Exception as error:
        said = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise TuningError(
            f"A schedule of the tuning database does not fit its kernel: {said}",
            "Tune again, or give another database.",
        ) from None


def trace_text(schedule: Any) -> str:
    """What was done to a schedule, as text: the choice of a kernel."""
    return json.dumps(_plain(schedule.trace.as_json()), separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, tvm.tirx.IntImm | tvm.tirx.FloatImm):
        return value.value
    if hasattr(value, "items"):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value]
