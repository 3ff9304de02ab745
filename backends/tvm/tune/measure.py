"""Measures candidates in a process of their own, one at a time on the whole machine, or on a device elsewhere.

measurer.measure(subject, candidates) -> Timing | Failed for each, in order;  the subject's first is its default

A candidate that crashes or hangs costs the process, which is started again for the next one. A candidate whose
result is not the default's is `Failed("wrong", ...)`, however fast. The process ends with its parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

import numpy as np

from ....errors import CodegenError, TuningError
from ..link import link
from ..plan import memory_dtype, physical_shape
from ..process import Child, Died, TookTooLong
from ..target import Target
from . import lock
from .candidate import Candidate, Failed, Subject, Timing, arguments
from .differences import BOUND, REFERENCE
from .keys import cpu_model
from .measure_process import Limits, Order, Output, Parameter, Result, command, greeting
from .reference import Bar, bar

FIRST = 60.0
"""Seconds of CPU time that each thread may take to measure a default, whose kernel may well be slow."""

PATIENCE = 3.0
"""The same for later candidates, and 200 times the best time so far."""

_EXPECTED = "expected"


class Measurer(Protocol):
    """What a search needs: this machine, or a device elsewhere."""

    machine: str
    """The CPU that measures, for `keys.task_key`."""

    def measure(
        self, subject: Subject, candidates: Sequence[Candidate], known: float | None = None
    ) -> Iterator[Timing | Failed]:
        """Time each candidate; those slower by far than `known`, or than the best so far, are cut short.

        The first candidate that a subject ever brings is its default: what the others must compute. Raises
        TuningError if nothing at all can be measured.
        """

    def close(self) -> None:
        """Give back what is held."""


class ProcessMeasurer:
    """What both kinds of measurers do: one asks a process that measures, the other one that asks a device to."""

    def __init__(self, target: Target, limits: Limits | None, child: Child) -> None:
        """Nothing runs until the first candidate comes."""
        self.target = target
        self.limits = limits or Limits()
        self.machine = ""
        self._child = child
        self._held: set[str] = set()
        self._library: bytes | None = None
        self._subject: Subject | None = None
        self._expected: np.ndarray | None = None
        self._spoiled: Failed | None = None
        self._reference: Bar | None = None

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @property
    def pid(self) -> int | None:
        """The measuring process while it lives."""
        return self._child.pid

    def close(self) -> None:
        """End the process."""
        self._child.stop()

    def measure(
        self, subject: Subject, candidates: Sequence[Candidate], known: float | None = None
    ) -> Iterator[Timing | Failed]:
        """See `Measurer`."""
        self._begin(subject)
        library = link_all(candidates, self.target) if candidates else b""
        for candidate in candidates:
            result = self._spoiled or self._one(candidate, library, known)
            if isinstance(result, Timing):
                known = result.seconds if known is None else min(known, result.seconds)
            elif self._expected is None and self._spoiled is None:
                why = f"nothing can be compared with the default, which failed: {result.why}"
                self._spoiled = Failed("default", why)
            yield result

    def _begin(self, subject: Subject) -> None:
        """Forget what another subject brought."""
        if subject is not self._subject:
            self._subject, self._expected, self._spoiled, self._reference = subject, None, None, None
            if self._child.pid is not None:
                self._held.clear()
                self._child.stop() if self._ask("forget")[0] != "ok" else None

    def _one(self, candidate: Candidate, library: bytes | None, known: float | None) -> Timing | Failed:
        """Measure one; a process that dies of it is started again by the next."""
        try:
            self._start()
            if failed := self._load(candidate, library):
                return failed
            order = self._order(candidate, known)
            with self._alone():
                status, value = self._ask("measure", order, seconds=self._patience(known))
        except TookTooLong as error:
            return Failed("timeout", str(error))
        except Died as error:
            return Failed("crash", str(error))
        return Failed(*value) if status == "failed" else self._judge(Result(*value))

    def _alone(self) -> AbstractContextManager[None]:
        """Keep others from the device while one candidate is measured."""
        raise NotImplementedError

    def _patience(self, known: float | None) -> float:
        """Seconds after which a candidate has failed."""
        raise NotImplementedError

    def _welcome(self) -> None:
        """See that a new process can measure; raises Died or TuningError."""
        self._child.ask(("forget",))

    def _judge(self, result: Result) -> Timing | Failed:
        """The default's result is what all others are compared with."""
        if result.wrong:
            return Failed("wrong", result.wrong)
        if self._expected is None:
            self._expected = result.output
        return Timing(result.seconds, result.spread, result.samples, result.cut)

    def _start(self) -> None:
        """See that the process runs; a new one holds nothing."""
        try:
            if self._child.start():
                self._held.clear()
                self._library = None
                self._welcome()
        except Died as error:
            raise TuningError(
                f"Nothing can be measured: {error}.",
                "planish doctor says what is missing; PLANISH_TRACEBACK=1 shows where it happened.",
            ) from None

    def _load(self, candidate: Candidate, library: bytes | None) -> Failed | None:
        """Load the library of all candidates, or of this one where that cannot be loaded."""
        said: Any = ("compile", "the linker refused it")
        for alone in (False, True):
            chosen = link_all([candidate], self.target) if alone else library
            if chosen is None:
                continue
            if chosen == self._library:
                return None
            status, said = self._ask("load", chosen)
            if status == "ok":
                self._library = chosen
                return None
        return Failed("compile", said[1])

    def _order(self, candidate: Candidate, known: float | None) -> Order:
        """The request for one candidate, its arrays sent before."""
        assert self._subject is not None
        parameters = arguments(candidate)
        for parameter in parameters:
            if parameter.key not in self._held:
                self._keep(parameter.key, parameter.array(self._subject))
        if self._expected is not None and _EXPECTED not in self._held:
            self._keep(_EXPECTED, self._expected)
        return Order(
            candidate.symbol,
            [Parameter(p.key, p.cold, p.derive) for p in parameters],
            output_of(candidate),
            _EXPECTED if self._expected is not None else None,
            known,
            candidate.task.target.threads,
            self.limits,
            candidate.lowered.agreement == "exact",
            self._bar(candidate),
        )

    def _bar(self, candidate: Candidate) -> float | None:
        """How far from the float64 reference, which the process then has, the candidate may be."""
        assert self._subject is not None
        if candidate.lowered.agreement != "bar" or candidate.task.output.dtype not in BOUND:
            return None
        if self._reference is None:
            self._reference = bar(self._subject.task, self._subject.arrays)
        if REFERENCE not in self._held:
            self._keep(REFERENCE, self._reference.reference)
        return self._reference.error

    def _keep(self, key: str, array: np.ndarray) -> None:
        self._ask("keep", key, array)
        self._held.add(key)

    def _ask(self, verb: str, *values: Any, seconds: float | None = None) -> tuple[str, Any]:
        status, value = self._child.ask((verb, *values), seconds)
        if status == "refused":
            raise value
        return status, value


class LocalMeasurer(ProcessMeasurer):
    """Measures on this machine."""

    def __init__(self, target: Target, limits: Limits | None = None) -> None:
        """Nothing runs until the first candidate comes."""
        super().__init__(target, limits, Child(command, greeting, "the measuring process"))
        self.machine = cpu_model()

    def _alone(self) -> AbstractContextManager[None]:
        return lock.measuring()

    def _patience(self, known: float | None) -> float:
        return self.target.threads * (FIRST if known is None else PATIENCE + 200 * known)


def output_of(candidate: Candidate) -> Output:
    """How a candidate's result lies in memory."""
    value, layout = candidate.task.output, candidate.lowered.output
    physical = physical_shape(value.shape, layout)
    return Output(physical, memory_dtype(value.dtype), value.shape, value.dtype, layout)


def link_all(candidates: Sequence[Candidate], target: Target) -> bytes | None:
    """One library with the kernels of all candidates; None if they cannot be linked together."""
    try:
        return link({name: data for c in candidates for name, data in c.objects.items()}, target)
    except CodegenError:
        return None
