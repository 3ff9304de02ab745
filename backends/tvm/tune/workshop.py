"""Makes the kernels of options and times them: code by the worker processes on all cores, then each measured alone.

seconds(task, options) = measure(compile(emit(task, option)) for option in options)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..objects import ObjectCache
from ..template import Lowered, Task
from ..worker import Pool
from . import lock
from .candidate import Candidate, Failed, Subject, Timing, compile_candidates
from .measure import Measurer
from .spaces import Option


class CodeWorkshop:
    """The workshop of a search: this machine's compiler, and a measurer here or elsewhere."""

    def __init__(self, measurer: Measurer, pool: Pool, cache: ObjectCache) -> None:
        """Nothing runs before the first visit."""
        self._measurer, self._pool, self._cache = measurer, pool, cache
        self._visited: tuple[Task, Subject] | None = None

    def seconds(self, task: Task, options: Sequence[Option]) -> Iterator[float | Failed]:
        """Seconds a call of each option, in order as they are measured; the first is the default.

        Nothing compiles while something is measured. Equal code is measured once. A kernel that would store its
        result where an operand lies gets that operand apart: called again and again, it would destroy it.
        """
        if self._visited is None or self._visited[0] is not task:
            self._visited = task, Subject.of(replace(task, within=frozenset()))
        subject = self._visited[1]
        made = [_emit(subject.task, option) for option in options]
        with lock.compiling():
            compiled = iter(
                compile_candidates([(subject.task, k) for k in made if isinstance(k, Lowered)], self._pool, self._cache)
            )
        found = [next(compiled) if isinstance(entry, Lowered) else entry for entry in made]
        distinct = {c.symbol: c for c in found if isinstance(c, Candidate)}
        results = zip(distinct, self._measurer.measure(subject, list(distinct.values())), strict=False)
        times: dict[str, float | Failed] = {}
        for entry in found:
            if isinstance(entry, Failed):
                yield entry
                continue
            while entry.symbol not in times:
                symbol, result = next(results)
                times[symbol] = result.seconds if isinstance(result, Timing) else result
            yield times[entry.symbol]


def _emit(task: Task, option: Option) -> Lowered | Failed:
    """The kernel. A template's defect must not end a search of minutes: it is an attempt that failed."""
    try:
        return option.template.emit(task, option.choice)
    except Exception as error:
        return Failed("compile", f"{option.template.name} cannot emit it: {type(error).__name__}: {error}")
