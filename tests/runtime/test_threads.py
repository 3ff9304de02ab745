"""Many threads on one Compiled; the number of threads is what was asked for."""

from __future__ import annotations

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from runtime.conftest import compile_plan
from runtime.plans import Builder, expected_scale_and_shift

from planish.backends.tvm.runtime import Compiled, load
from planish.errors import OptionError


def resident() -> int:
    """Resident memory in KB."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


def os_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def settled(limit: int) -> int:
    """OS threads, once those that are ending have ended."""
    for _ in range(1200):
        if os_threads() <= limit:
            break
        time.sleep(0.05)
    return os_threads()


@pytest.fixture(scope="module")
def chain() -> Compiled:
    """Eight kernels over 256 KB."""
    b = Builder()
    value = b.input("x", (64, 1024))
    for i in range(8):
        value = b.call(f"v{i}", lambda v: v + v, value)
    return compile_plan(b.outputs(value), threads=2)


def test_eight_threads_of_two_hundred_calls_are_right_and_memory_is_flat(chain: Compiled) -> None:
    def work(seed: int) -> bool:
        x = np.random.default_rng(seed).standard_normal((64, 1024), dtype=np.float32)
        return all(np.array_equal(chain(x)[0], x * 256) for _ in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    gc.collect()
    before = resident()
    for _ in range(2):
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
    gc.collect()
    assert resident() - before < 8 * 1024


def test_machines_and_pools_end_with_their_threads(chain: Compiled) -> None:
    x = np.ones((64, 1024), np.float32)

    def one() -> None:
        assert float(chain(x)[0][0, 0]) == 256

    def spawn(count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=one)
            thread.start()
            thread.join()

    spawn(10)
    time.sleep(0.5)
    before, threads = resident(), os_threads()
    spawn(100)
    assert settled(threads) <= threads
    assert resident() - before < 8 * 1024


def test_loading_again_and_again_is_flat(path: Path) -> None:
    x = np.ones((4, 32), np.float32)

    def once() -> None:
        assert float(load(path)(x)[0][0, 0]) == 3.0

    for _ in range(5):
        once()
    gc.collect()
    before, descriptors = resident(), len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        once()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert resident() - before < 8 * 1024


def used_threads(model: Compiled) -> int:
    """OS threads that a call in a new thread adds, itself included."""
    counts: list[int] = []
    before = os_threads()

    def call() -> None:
        model(np.ones((64, 1024), np.float32))
        counts.append(os_threads() - before)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    settled(before)
    return counts[0]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_number_of_threads_is_what_was_asked_for(chain: Compiled, tmp_path: Path, threads: int) -> None:
    chain.save(tmp_path / "a")
    assert used_threads(load(tmp_path / "a", threads=threads)) == threads


def test_models_with_different_numbers_of_threads_alternate(chain: Compiled, tmp_path: Path) -> None:
    """More threads than this thread's pool was made with: the call moves to a thread that has them."""
    chain.save(tmp_path / "a")
    x = np.random.default_rng(0).standard_normal((64, 1024), dtype=np.float32)
    models = [load(tmp_path / "a", threads=n) for n in (1, 3, 2, 4)]
    results: list[bytes] = []

    def call() -> None:
        results.extend(model(x)[0].tobytes() for _ in range(3) for model in models)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert set(results) == {(x * 256).tobytes()}  # the same bits, whatever the number
    assert len(results) == 12


def test_default_is_the_cores_of_the_process(path: Path) -> None:
    assert load(path).threads == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 1025])
def test_threads_that_are_no_number(path: Path, threads: object) -> None:
    with pytest.raises(OptionError, match="is not a number of threads"):
        load(path, threads=threads)  # type: ignore[arg-type]


def test_the_main_thread_and_others_at_once(compiled: Compiled) -> None:
    x = np.ones((4, 32), np.float32)
    stop = threading.Event()
    wrong: list[int] = []

    def work() -> None:
        while not stop.is_set():
            if not np.array_equal(compiled(x)[0], expected_scale_and_shift(x)):
                wrong.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(300):
        np.testing.assert_array_equal(compiled(x)[0], expected_scale_and_shift(x))
    stop.set()
    thread.join()
    assert not wrong


def test_memory_of_a_deleted_model_is_given_back(tmp_path: Path) -> None:
    b = Builder()
    value = b.input("x", (4096, 4096))
    for i in range(3):
        value = b.call(f"v{i}", lambda v: v + v, value)
    compile_plan(b.outputs(value), threads=1).save(tmp_path / "a")
    gc.collect()
    x = np.ones((4096, 4096), np.float32)
    before = resident()
    model = load(tmp_path / "a", threads=1)
    assert float(model(x)[0][0, 0]) == 8
    assert resident() - before > 100 * 1024  # two values of 64 MB between the kernels, pooled
    del model
    gc.collect()
    assert resident() - before < 8 * 1024
