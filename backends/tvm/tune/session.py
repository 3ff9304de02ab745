"""Compiling with tuning, on this machine: from options to a Compiled.

tuned(make, target, Tuning(60.0)) is never slower than make(default_kernel), and says in its manifest what was done
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ....errors import OptionError
from .. import cpu
from ..build import shared_cache
from ..kernels.templates import TEMPLATES
from ..runtime import Compiled
from ..target import Target
from ..template import Chooser
from ..worker import shared_pool
from . import lock
from .database import Database, default_path
from .elsewhere import tuned_elsewhere
from .measure import LocalMeasurer
from .network import CompiledNetwork
from .search import Standing
from .tuner import Known, Summary, Tasks, Tuner
from .workshop import CodeWorkshop

Make = Callable[[Chooser, Summary], Compiled]
"""Compiles the model with the kernels that a chooser decides on; the summary goes into the manifest."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Tuning:
    """How to tune: for how many `seconds`, and the `database` that knows and learns; the user's own by default.

    Without seconds nothing is measured: kernels are those that the database knows, the others are defaults. `rpc` is
    the device that the code is for, as host:port/key of a tracker. `metaschedule` also has TVM's MetaSchedule search
    where no template takes a task.
    """

    seconds: float = 0.0
    database: str | os.PathLike[str] | None = None
    rpc: str | None = None
    metaschedule: bool = False


def tuned(make: Make, target: Target, tuning: Tuning, progress: Progress) -> Compiled:
    """Compile with the best kernels that are known or found."""
    path = default_path() if tuning.database is None else Path(tuning.database)
    with Database(path) as database:
        if tuning.rpc is not None:
            return tuned_elsewhere(make, target, tuning, database, progress)
        if tuning.seconds:
            return _search(make, target, tuning, database, progress)
        known = Known(database, TEMPLATES)
        return make(known, known.summary)


def _search(make: Make, target: Target, tuning: Tuning, database: Database, progress: Progress) -> Compiled:
    """Compile untuned, tune, and compile once more."""
    _check_machine(target)
    budget = tuning.seconds
    tasks, began = Tasks(), time.monotonic()
    untuned = make(tasks, Summary())
    building = time.monotonic() - began

    def build(choose: Chooser) -> CompiledNetwork:
        return CompiledNetwork(make(choose, Summary()), tasks.of_output)

    began = time.monotonic()

    def report(standing: Standing) -> None:
        gain = 100 * standing.won / max(standing.total, 1e-9)
        progress(f"tuning: {gain:.1f} % less time so far", round(time.monotonic() - began), round(budget))

    with LocalMeasurer(target) as measurer:
        workshop = CodeWorkshop(measurer, shared_pool(), shared_cache())
        tuner = Tuner(TEMPLATES, workshop, database, lock.measuring, metaschedule=tuning.metaschedule)
        choose, summary = tuner.tune(build, CompiledNetwork(untuned, tasks.of_output), tasks, budget, report, building)
    return make(choose, summary)


def _check_machine(target: Target) -> None:
    """Only the machine that runs the code can measure it."""
    here = cpu.architecture()
    lacks = [] if target.arch != here else cpu.missing(target.arch, target.features)
    if target.arch == here and not lacks:
        return
    why = f"this machine lacks {', '.join(lacks)}" if lacks else f"this machine is {here}"
    raise OptionError(
        f"tune asks for measuring code for {target.cpu} ({target.arch}), but {why}.",
        "Tune on that machine and give its database as tuning_db, or leave tune out.",
    )
