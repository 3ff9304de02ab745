"""MetaSchedule's search for a task without a template, a batch of schedules at a time.

propose(count, times) -> options of the template `metaschedule` that `times` does not have yet

MetaSchedule samples its design space and changes what was fast. It gets to know times from here, because candidates
are measured like all others: in the measuring process, compared with the default, under the machine's lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..compat import meta_schedule, s_tir, tune_context, tvm
from ..generic.metaschedule import NAME, MetaSchedule, apply, blocks_of, trace_text
from ..target import Target
from ..template import Task
from .spaces import Name, Option

BATCH = 8
"""Schedules that are sampled at once; those after them are bred from what is known by then."""

MOST = 64
"""Schedules that are proposed for one task."""

_POPULATION, _GENERATIONS = 32, 2
_JOBS = 16
"""Tasks for each thread that a parallel loop may have."""

_UNROLLED = (0, 16, 64)
_FAILED = 1e10
"""Seconds, as MetaSchedule writes them, of what cannot be used."""


class Evolution:
    """One task's schedules."""

    def __init__(self, task: Task) -> None:
        """Nothing is sampled before `propose`."""
        self._task = task
        self._template = MetaSchedule()
        self._batch: list[tuple[Option, Any]] = []
        """Options under way, and MetaSchedule's candidates."""
        self._context: Any = None
        self._database: Any = None
        self._proposed = 0
        self.failed = ""
        """What TVM said when it could not go on."""

    def propose(self, count: int, times: Mapping[Name, float | None]) -> list[Option]:
        """At most `count` untried options; none if the search has ended, or failed: others go on."""
        if self.failed:
            return []
        try:
            with _own_numbers():
                return self._propose(count, times)
        except Exception as error:  # TVM has an error class for each of its defects
            self.failed = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            return []

    def _propose(self, count: int, times: Mapping[Name, float | None]) -> list[Option]:
        if self._context is None:
            self._begin(times)
        waiting = [option for option, _ in self._batch if option.name not in times]
        while not waiting and self._proposed < MOST:
            self._tell(times)
            if not self._sample():
                return []
            waiting = [option for option, _ in self._batch if option.name not in times]
        return waiting[:count]

    def _begin(self, times: Mapping[Name, float | None]) -> None:
        """Start where an earlier search of the same task ended."""
        ms = meta_schedule()
        self._module = tvm.IRModule({"main": blocks_of(self._task).func})
        self._target = _target(self._task.target)
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(self._module)
        known = {choice: seconds for (template, choice), seconds in times.items() if template == NAME}
        for choice, seconds in known.items():
            self._remember(_replayed(self._module, choice), seconds)
        self._proposed = len(known)
        space, strategy = _space(ms, self._task.target.lanes), _strategy(ms)
        self._context = tune_context(self._module, self._target, space, strategy, 1 + len(known))
        designs = self._context.generate_design_space()
        self._context.pre_tuning(MOST * BATCH, BATCH, designs, self._database, ms.cost_model.RandomModel(seed=1))

    def _tell(self, times: Mapping[Name, float | None]) -> None:
        """What became of the batch."""
        if not self._batch:
            return
        results = []
        for option, candidate in self._batch:
            seconds = times.get(option.name)
            self._remember(candidate.sch, seconds)
            results.append(_result(seconds))
        self._context.notify_runner_results([candidate for _, candidate in self._batch], results)
        self._batch = []

    def _remember(self, schedule: Any, seconds: float | None) -> None:
        record = meta_schedule().database.TuningRecord
        taken = [_FAILED if seconds is None else seconds]
        self._database.commit_tuning_record(record(schedule.trace, self._workload, taken, self._target, None))

    def _sample(self) -> bool:
        """The next batch; whether there is one."""
        candidates = self._context.generate_measure_candidates() or []
        self._batch = [(Option(self._template, {"trace": trace_text(c.sch)}), c) for c in candidates]
        self._proposed += len(self._batch)
        return bool(self._batch)


@contextlib.contextmanager
def _own_numbers() -> Iterator[None]:
    """Give NumPy's random numbers back as they were: MetaSchedule takes from the process's own."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)


def _target(target: Target) -> Any:
    """TVM's target with the number of threads, of which the rules ask."""
    told = dict(target.tvm_target().export())
    return tvm.target.Target({**told, "num-cores": target.threads})


def _space(ms: Any, lanes: int) -> Any:
    """MetaSchedule's rules for CPUs. Vectors are of one register: formulas are long, and wide ones spill."""
    rules, posts, mutators = ms.schedule_rule, ms.postproc, ms.mutator
    reuse = rules.ReuseType(req="may", levels=[1, 2], scope="global")
    steps: Sequence[Any] = [
        rules.AutoInline(
            into_producer=False,
            into_consumer=True,
            inline_const_tensor=True,
            disallow_if_then_else=True,
            require_injective=True,
            require_ordered=True,
        ),
        rules.AddRFactor(max_jobs_per_core=_JOBS, max_innermost_factor=64),
        rules.MultiLevelTiling(structure="SSRSRS", max_innermost_factor=64, reuse_write=reuse),
        rules.ParallelizeVectorizeUnroll(_JOBS, lanes, list(_UNROLLED), True),
        rules.RandomComputeLocation(),
    ]
    after = [posts.DisallowDynamicLoop(), posts.RewriteParallelVectorizeUnroll(), posts.RewriteReductionBlock()]
    changes = {
        mutators.MutateTileSize(): 0.85,
        mutators.MutateComputeLocation(): 0.05,
        mutators.MutateUnroll(): 0.05,
        mutators.MutateParallel(max_jobs_per_core=_JOBS): 0.05,
    }
    return ms.space_generator.PostOrderApply(sch_rules=steps, postprocs=after, mutator_probs=changes)


def _strategy(ms: Any) -> Any:
    return ms.search_strategy.EvolutionarySearch(
        population_size=_POPULATION, init_measured_ratio=0.5, init_min_unmeasured=BATCH, genetic_num_iters=_GENERATIONS
    )


def _replayed(module: Any, choice: str) -> Any:
    """A schedule as an earlier search left it."""
    import json

    schedule = s_tir.Schedule(module)
    apply(schedule, str(json.loads(choice)["trace"]))
    return schedule


def _result(seconds: float | None) -> Any:
    result = meta_schedule().runner.RunnerResult
    return result(None, "it failed") if seconds is None else result([seconds], None)
