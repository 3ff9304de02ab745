"""Measuring: what is timed and compared, and that a candidate that crashes, hangs or lies fails alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kernel_case import aten, make_task

from planish.backends.tvm.compat import IRBuilder, T, tirx
from planish.backends.tvm.objects import ObjectCache
from planish.backends.tvm.template import Derive, Lowered, Packed, Task
from planish.backends.tvm.tune.candidate import Candidate, Failed, Subject, Timing, compile_candidates
from planish.backends.tvm.tune.differences import difference
from planish.backends.tvm.tune.measure import LocalMeasurer
from planish.backends.tvm.tune.measure_process import Limits, last_level_cache, spread, timing
from planish.backends.tvm.worker import Pool
from planish.errors import TuningError

SIZE = 4096
QUICK = Limits(seconds=0.02, samples=3, spread=1.0)
Body = Callable[[Any, Any, Any, Any], None]


def scaled() -> Task:
    """y = x * w."""
    inputs = [torch.randn(SIZE), torch.randn(SIZE)]
    return make_task(lambda x, w: aten.mul.Tensor(x, w), inputs, constants=(1,))


def kernel(body: Body, args: Sequence[int | Packed] = (0, 1), weight: int = SIZE) -> Lowered:
    """A kernel by hand: `body(x, w, y, i)` for each i."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        shapes = {"x": SIZE, "w": weight, "y": SIZE}
        buffers = [T.match_buffer(T.arg(n, T.handle()), (s,), "float32", align=64) for n, s in shapes.items()]
        with T.serial(0, SIZE) as i:
            body(*buffers, i)
    return Lowered(builder.get(), tuple(args), "plain")


def product(x: Any, w: Any, y: Any, i: Any) -> None:
    T.buffer_store(y, x[i] * w[i], [i])


def sum_instead(x: Any, w: Any, y: Any, i: Any) -> None:
    T.buffer_store(y, x[i] + w[i], [i])


def half_written(x: Any, w: Any, y: Any, i: Any) -> None:
    with T.If(i < SIZE // 2), T.Then():
        T.buffer_store(y, x[i] * w[i], [i])


def not_again(x: Any, w: Any, y: Any, i: Any) -> None:
    """Right in the first run, when the output is still NaN (its bits are -1)."""
    first = T.reinterpret("int32", y[i]) == tirx.const(-1, "int32")
    T.buffer_store(y, tirx.Select(first, x[i] * w[i], x[i]), [i])


def wild(x: Any, w: Any, y: Any, i: Any) -> None:
    T.buffer_store(y, x[i * 500_000], [i])


def aborting(x: Any, w: Any, y: Any, i: Any) -> None:
    T.evaluate(T.call_extern("void", "abort"))


def endless(x: Any, w: Any, y: Any, i: Any) -> None:
    with T.While(T.call_extern("int32", "abs", 1) == 1):
        T.buffer_store(y, x[i], [i])


def unlinked(x: Any, w: Any, y: Any, i: Any) -> None:
    T.evaluate(T.call_extern("int32", "no_such_function_anywhere", 1))


@pytest.fixture(scope="module")
def measurer() -> Iterator[LocalMeasurer]:
    with LocalMeasurer(scaled().target, QUICK) as measurer:
        yield measurer


def compiled(pool: Pool, task: Task, lowered: Sequence[Lowered]) -> list[Candidate]:
    """Candidates, which must compile."""
    made = compile_candidates([(task, kernel) for kernel in lowered], pool, ObjectCache(None, {}))
    assert not [failed for failed in made if isinstance(failed, Failed)]
    return [candidate for candidate in made if isinstance(candidate, Candidate)]


def measured(measurer: LocalMeasurer, pool: Pool, *bodies: Body) -> list[Timing | Failed]:
    """The bodies as candidates for one new subject."""
    task = scaled()
    return list(measurer.measure(Subject.of(task), compiled(pool, task, [kernel(b) for b in bodies])))


def test_a_right_candidate_is_timed(measurer: LocalMeasurer, pool: Pool) -> None:
    begin = time.monotonic()
    (timing,) = measured(measurer, pool, product)
    assert isinstance(timing, Timing)
    assert 1e-8 < timing.seconds < time.monotonic() - begin
    assert timing.samples >= 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (sum_instead, "of the output's scale away from the default"),
        (half_written, "NaN or inf are not where the default has them"),
        (not_again, "two runs on the same inputs gave different results"),
    ],
)
def test_a_candidate_that_computes_something_else_is_wrong(
    measurer: LocalMeasurer, pool: Pool, body: Body, said: str
) -> None:
    default, wrong, right = measured(measurer, pool, product, body, lambda x, w, y, i: product(w, x, y, i))
    assert isinstance(default, Timing)
    assert isinstance(wrong, Failed)
    assert (wrong.kind, said in wrong.why) == ("wrong", True), wrong.why
    assert isinstance(right, Timing)


@pytest.mark.parametrize(("body", "name"), [(wild, "SIGSEGV"), (aborting, "SIGABRT")])
def test_a_crash_fails_one_candidate(measurer: LocalMeasurer, pool: Pool, body: Body, name: str) -> None:
    default, crash, wrong = measured(measurer, pool, product, body, sum_instead)
    assert isinstance(default, Timing)
    assert isinstance(crash, Failed)
    assert crash.kind == "crash"
    assert name in crash.why
    assert isinstance(wrong, Failed), "the new process does not know what the default computes"
    assert wrong.kind == "wrong"


def test_an_endless_candidate_fails_alone_and_its_process_is_gone(
    measurer: LocalMeasurer, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planish.backends.tvm.tune.measure.PATIENCE", 0.3)
    results = measured(measurer, pool, product, endless, product)
    assert isinstance(results[1], Failed)
    assert results[1].kind == "timeout"
    assert [type(r) for r in results] == [Timing, Failed, Timing]


def test_a_default_may_be_slow_and_a_candidate_only_as_slow_as_it_could_be_of_use() -> None:
    measurer = LocalMeasurer(scaled().target)
    assert measurer._patience(None) == 2 * 60.0
    assert measurer._patience(0.1) == 2 * (3.0 + 20.0)


def test_a_kernel_that_cannot_be_loaded_fails_alone(measurer: LocalMeasurer, pool: Pool) -> None:
    results = measured(measurer, pool, product, unlinked, sum_instead)
    assert isinstance(results[0], Timing)
    assert isinstance(results[1], Failed)
    assert results[1].kind == "compile"
    assert "no_such_function_anywhere" in results[1].why
    assert isinstance(results[2], Failed)
    assert results[2].kind == "wrong"


def test_without_a_default_nothing_is_measured(measurer: LocalMeasurer, pool: Pool) -> None:
    crash, other = measured(measurer, pool, aborting, product)
    assert isinstance(crash, Failed)
    assert isinstance(other, Failed)
    assert (crash.kind, other.kind) == ("crash", "default")
    assert "SIGABRT" in other.why
    (later,) = measured(measurer, pool, product)
    assert isinstance(later, Timing), "another subject has its own default"


def test_later_candidates_are_compared_with_the_first_default(measurer: LocalMeasurer, pool: Pool) -> None:
    task = scaled()
    subject = Subject.of(task)
    right, wrong = compiled(pool, task, [kernel(product), kernel(sum_instead)])
    assert isinstance(next(measurer.measure(subject, [right])), Timing)
    assert isinstance(next(measurer.measure(subject, [wrong])), Failed)
    assert list(measurer.measure(subject, [])) == []


def test_weights_are_packed_and_derived_as_an_artifact_does(measurer: LocalMeasurer, pool: Pool) -> None:
    """The weight is stored reversed and doubled; loading makes twice that, so the kernel reads four times w."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        stored = T.match_buffer(T.arg("stored", T.handle()), (SIZE,), "float32", align=64)
        made = T.match_buffer(T.arg("made", T.handle()), (2 * SIZE,), "float32", align=64)
        with T.serial(0, SIZE) as i:
            T.buffer_store(made, stored[i] * tirx.const(2.0, "float32"), [2 * i])
    derive = Derive("twice", builder.get(), (2 * SIZE,), "float32")
    packed = Packed(1, "reversed", lambda w: np.ascontiguousarray(w[::-1]) * 2, derive)

    def read(x: Any, w: Any, y: Any, i: Any) -> None:
        T.buffer_store(y, x[i] * w[2 * (SIZE - 1 - i)] * tirx.const(0.25, "float32"), [i])

    task = scaled()
    made = compiled(pool, task, [kernel(product), kernel(read, (0, packed), 2 * SIZE)])
    assert len(made[1].objects) == 2
    results = list(measurer.measure(Subject.of(task), made))
    assert [type(r) for r in results] == [Timing, Timing], results


def test_slow_candidates_are_cut_short(measurer: LocalMeasurer, pool: Pool) -> None:
    def slow(x: Any, w: Any, y: Any, i: Any) -> None:
        with T.serial(0, 400) as j:
            T.buffer_store(y, x[i] * w[i] + tirx.Select(j < i - SIZE, x[j], tirx.const(0.0, "float32")), [i])

    default, late = measured(measurer, pool, product, slow)
    assert isinstance(default, Timing)
    assert isinstance(late, Timing)
    assert (default.cut, late.cut) == (False, True)
    assert late.seconds > 2 * default.seconds


def test_equal_kernels_are_compiled_once_and_a_failure_is_said(pool: Pool) -> None:
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        y = T.match_buffer(T.arg("y", T.handle()), (SIZE,), "float32", align=64)
        T.buffer_store(y, T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id("llvm.sqrt"), dtype="float32"), [0])
    task = scaled()
    bad = Lowered(builder.get(), (), "plain")
    first, failed, second = compile_candidates(
        [(task, k) for k in (kernel(product), bad, kernel(product))], pool, ObjectCache(None, {})
    )
    assert isinstance(failed, Failed)
    assert failed.kind == "compile"
    assert isinstance(first, Candidate)
    assert isinstance(second, Candidate)
    assert first.symbol == second.symbol


def test_the_process_has_neither_torch_nor_the_compiler(measurer: LocalMeasurer, pool: Pool) -> None:
    measured(measurer, pool, product)
    maps = Path(f"/proc/{measurer.pid}/maps").read_text()
    assert "libtvm_runtime" in maps
    assert "torch" not in maps
    assert "libtvm_compiler" not in maps


def test_a_process_that_cannot_be_started_is_no_candidates_fault(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    task = scaled()
    made = compiled(pool, task, [kernel(product)])
    with LocalMeasurer(task.target) as measurer, pytest.raises(TuningError, match="Nothing can be measured"):
        list(measurer.measure(Subject.of(task), made))


def test_an_interrupt_leaves_no_answer_to_the_next_question(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    task = scaled()
    made = compiled(pool, task, [kernel(product), kernel(sum_instead)])
    with LocalMeasurer(task.target, QUICK) as measurer:
        subject = Subject.of(task)
        results = measurer.measure(subject, made)
        assert isinstance(next(results), Timing)
        with monkeypatch.context() as patch:
            patch.setattr("planish.backends.tvm.process.Child._receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(results)
        (again,) = measurer.measure(subject, made[1:])
        assert isinstance(again, Failed)
        assert again.kind == "wrong"


def interrupted(*_: object) -> Any:
    raise KeyboardInterrupt


def test_the_process_ends_with_its_parent_in_the_middle_of_a_kernel() -> None:
    code = (
        "import os, signal, sys, threading, time\n"
        "from tune.test_measure import *\n"
        "pool = Pool(1)\ntask = scaled()\nmade = compiled(pool, task, [kernel(endless)])\n"
        "measurer = LocalMeasurer(task.target)\n"
        "threading.Thread(target=lambda: list(measurer.measure(Subject.of(task), made)), daemon=True).start()\n"
        "while measurer.pid is None: time.sleep(0.01)\n"
        "time.sleep(1.5)\nprint(measurer.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    folder = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": folder},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    limit = time.monotonic() + 120
    while Path(f"/proc/{done.stdout.strip()}").exists():
        assert time.monotonic() < limit
        time.sleep(0.05)


class Clock:
    """Time that passes only in calls."""

    def __init__(self, *costs: float) -> None:
        self.now = 0.0
        self.costs = costs
        self.calls = 0

    def __call__(self) -> float:
        return self.now

    def call(self) -> None:
        self.now += self.costs[min(self.calls, len(self.costs) - 1)]
        self.calls += 1


def test_a_steady_kernel_is_timed_by_its_median() -> None:
    clock = Clock(9.0, 1.0)
    assert timing(clock.call, Limits(100.0, 5, 0.02), None, clock, lambda: 0) == (1.0, 0.0, 5, False)


def test_samples_in_which_another_process_ran_do_not_count() -> None:
    clock = Clock(1.0, 1.0, 1.0, *[1.0, 8.0, 1.0, 8.0, 1.0, 8.0, 1.0, 1.0])
    switched = iter([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3])
    seconds, scatter, samples, cut = timing(clock.call, Limits(100.0, 5, 0.02), None, clock, lambda: next(switched))
    assert (seconds, scatter, samples, cut) == (1.0, 0.0, 8, False)


def test_on_a_busy_machine_the_fastest_few_stand_for_all() -> None:
    clock = Clock(*[1.0] * 3, *[5.0, 7.0, 2.0, 9.0, 3.0, 4.0], *[8.0] * 100)
    count = iter(range(10**6))
    seconds, _, samples, _ = timing(clock.call, Limits(10.0, 5, 0.02), None, clock, lambda: next(count))
    assert seconds == 3.0  # of 2, 3, 4
    assert samples >= 6


def test_a_sample_of_a_short_kernel_is_many_calls() -> None:
    clock = Clock(1e-5)
    timing(clock.call, Limits(100.0, 5, 0.02), None, clock, lambda: 0)
    assert clock.calls == 3 + 5 * 30


def test_measuring_ends_in_time() -> None:
    clock = Clock(*[1.0, 3.0] * 1000)
    *_, samples, cut = timing(clock.call, Limits(20.0, 5, 0.02), None, clock, lambda: 0)
    assert not cut
    assert 7 <= samples <= 10


def test_cutting_short_needs_a_clear_difference() -> None:
    for cost, expected in ((1.5, False), (1.7, True)):
        clock = Clock(cost)
        *_, samples, cut = timing(clock.call, Limits(100.0, 5, 0.02), 1.0, clock, lambda: 0)
        assert (cut, samples) == (expected, 3 if expected else 5)


def test_spread_is_that_of_the_quartiles() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("result", "expected", "dtype", "said"),
    [
        (np.float32([1.0, 100.0]), np.float32([1.003, 100.0]), "float32", ""),
        (np.float32([1.0, 100.0]), np.float32([1.005, 100.0]), "float32", "scale"),
        (np.float32([np.nan, 1.0]), np.float32([np.nan, 1.0]), "float32", ""),
        (np.float32([np.nan, 1.0]), np.float32([1.0, 1.0]), "float32", "NaN or inf"),
        (np.float32([np.inf, 1.0]), np.float32([-np.inf, 1.0]), "float32", "NaN or inf"),
        (np.float32([0.0]), np.float32([0.0]), "float32", ""),
        (np.float32([1e-30]), np.float32([0.0]), "float32", "inf of the output's scale"),
        (np.int32([1, 2, 3]), np.int32([1, 5, 4]), "int32", "2 of 3 elements"),
        (np.uint16([0x3F80]), np.uint16([0x3F81]), "bfloat16", ""),
        (np.uint16([0x3F80]), np.uint16([0x3F84]), "bfloat16", "scale"),
        (np.float32([]), np.float32([]), "float32", ""),
    ],
)
def test_difference(result: Any, expected: Any, dtype: str, said: str) -> None:
    found = difference(result, expected, dtype)
    assert said in found
    assert bool(said) == bool(found)


def test_the_last_level_cache_is_the_largest(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "1024K", "33M", "2K")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert last_level_cache(tmp_path) == 33 * 2**20
    assert last_level_cache(tmp_path / "none") == 32 * 2**20


def test_a_measurement_waits_for_the_machine(measurer: LocalMeasurer, pool: Pool) -> None:
    from planish.backends.tvm.tune import lock

    done = threading.Event()

    def run() -> None:
        measured(measurer, pool, product)
        done.set()

    with lock.measuring():
        thread = threading.Thread(target=run)
        thread.start()
        assert not done.wait(1.0)
    assert done.wait(60)
    thread.join()
