"""The workshop: options become kernels that are measured, and what goes wrong with one is its own business."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from kernel_case import aten, make_task, randn

from planish.backends.tvm.kernels.conv_direct import ConvDirect
from planish.backends.tvm.objects import ObjectCache
from planish.backends.tvm.template import Choice, Lowered, Packed, Task
from planish.backends.tvm.tune.candidate import Candidate, Failed, Subject, Timing
from planish.backends.tvm.tune.measure import LocalMeasurer
from planish.backends.tvm.tune.measure_process import Limits
from planish.backends.tvm.tune.spaces import Option
from planish.backends.tvm.tune.workshop import CodeWorkshop
from planish.backends.tvm.worker import Pool

CONV = aten.convolution.default


def residual() -> Task:
    """y = conv(x) + r, where y is stored in the place of r."""

    def fn(x: torch.Tensor, w: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return aten.add.Tensor(CONV(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1), r)

    inputs = [randn(1, 16, 9, 9), randn(32, 16, 3, 3, seed=1), randn(1, 32, 9, 9, seed=2)]
    made = make_task(fn, inputs, (1,), kind="conv", anchor=CONV, layouts={0: "c16", 2: "c16"})
    blocks = {v.layout for v in made.inputs} - {"plain"}
    layouts = blocks if made.target.block == 16 else {f"c{made.target.block}"}
    values = tuple(replace(v, layout=next(iter(layouts)) if i != 1 else v.layout) for i, v in enumerate(made.inputs))
    return replace(made, inputs=values, within=frozenset({2}))


def options(task: Task, count: int) -> list[Option]:
    return [Option(ConvDirect(), choice) for choice in ConvDirect().space(task)[:count]]


class Counted:
    """A measurer that takes a second for each kernel, and counts."""

    machine = "a machine"

    def __init__(self) -> None:
        self.symbols: list[str] = []

    def measure(
        self, _subject: Subject, candidates: Sequence[Candidate], known: float | None = None
    ) -> Iterator[Timing | Failed]:
        for candidate in candidates:
            self.symbols.append(candidate.symbol)
            yield Timing(1.0, 0.0, 3)

    def close(self) -> None:
        """Nothing is held."""


class Forgetful(ConvDirect):
    """A template whose kernels lose the weights."""

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        made = super().emit(task, choice)
        return replace(made, args=tuple(_nothing(arg) if isinstance(arg, Packed) else arg for arg in made.args))


def _nothing(packed: Packed) -> Packed:
    return replace(packed, key="nothing", pack=lambda weight: 0 * packed.pack(weight))


class Broken(ConvDirect):
    """A template with a defect."""

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        raise IndexError("no such thing")


def test_kernels_that_store_in_an_operands_place_are_measured_and_compared(pool: Pool) -> None:
    """Each call would add its result to the last one's, and whatever lay there would hide what is wrong."""
    task = residual()
    with LocalMeasurer(task.target, Limits(seconds=0.02, samples=3, spread=1.0)) as measurer:
        shop = CodeWorkshop(measurer, pool, ObjectCache(None, {}))
        first, second, third = options(task, 3)
        times = list(shop.seconds(task, [first, second, Option(Forgetful(), third.choice)]))
    assert all(isinstance(seconds, float) for seconds in times[:2]), times
    assert isinstance(times[2], Failed)
    assert times[2].kind == "wrong"


def test_a_templates_defect_is_a_failed_attempt(pool: Pool) -> None:
    task = residual()
    first = options(task, 1)[0]
    measurer = Counted()
    times = list(
        CodeWorkshop(measurer, pool, ObjectCache(None, {})).seconds(task, [first, Option(Broken(), {}), first])
    )
    assert times[0] == times[2] == 1.0
    assert isinstance(times[1], Failed)
    assert "IndexError: no such thing" in times[1].why
    assert len(measurer.symbols) == 1  # equal code once


def test_times_come_one_by_one(pool: Pool) -> None:
    """Whoever is killed while the second is measured has the first."""
    task, measurer = residual(), Counted()
    times = CodeWorkshop(measurer, pool, ObjectCache(None, {})).seconds(task, options(task, 3))
    assert next(times) == 1.0
    assert len(measurer.symbols) == 1
