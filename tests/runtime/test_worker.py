"""A crash of the code generator costs one process, and names the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime.plans import elementwise, scale_and_shift

from planish.backends.tvm.build import build
from planish.backends.tvm.compat import IRBuilder, T, save_module, tirx
from planish.backends.tvm.target import parse_target
from planish.backends.tvm.worker import Job, KernelFailed, Pool
from planish.errors import CodegenError


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    pool.warm()
    yield pool
    pool.close()


def aborting_kernel() -> Any:
    """An AVX-512 instruction on a CPU that lacks it: LLVM ends the process."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        y = T.match_buffer(T.arg("y", T.handle()), (16,), "int32", align=4)
        name = "llvm.x86.avx512.vpdpbusd.512"
        operands = [
            tirx.const(0, "int32x16"),
            tirx.Broadcast(tirx.const(1, "uint8"), 64),
            tirx.Broadcast(tirx.const(1, "int8"), 64),
        ]
        operands[0] = tirx.Broadcast(tirx.const(0, "int32"), 16)
        call = T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *operands, dtype="int32x16")
        T.buffer_store(y, call, [tirx.Ramp(0, 1, 16)])
    return builder.get()


def job(symbol: str, func: Any, cpu: str = "haswell") -> Job:
    return Job(symbol, str(parse_target(cpu).tvm_target()), save_module(symbol, func))


def good(symbol: str = "k_good") -> Job:
    return job(symbol, elementwise(1, (64,), lambda v: v + v))


def unrolled(symbol: str, statements: int) -> Job:
    """A kernel of so many statements that LLVM needs seconds."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x = T.match_buffer(T.arg("x", T.handle()), (statements,), "float32", align=4)
        y = T.match_buffer(T.arg("y", T.handle()), (statements,), "float32", align=4)
        for i in range(statements):
            T.buffer_store(y, x[i] * x[(i * 7) % statements] + x[(i * 3) % statements], [i])
    return job(symbol, builder.get())


def ended(pid: int) -> bool:
    """Gone, or a zombie that its parent has not waited for, with no thread left."""
    try:
        if len(os.listdir(f"/proc/{pid}/task")) > 1:
            return False
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_object_is_compiled(pool: Pool) -> None:
    assert pool.submit(good()).result()[:4] == b"\x7fELF"


def test_objects_are_the_same_from_every_worker(pool: Pool) -> None:
    assert len({pool.submit(good()).result() for _ in range(4)}) == 1


def test_workers_hide_torch(pool: Pool) -> None:
    pool.submit(good()).result()
    for worker in pool.workers:
        if worker.pid is not None:
            with open(f"/proc/{worker.pid}/maps") as maps:
                assert "torch" not in maps.read()


def test_an_abort_of_llvm_is_an_error_and_the_worker_comes_back(pool: Pool) -> None:
    with pytest.raises(KernelFailed) as failure:
        pool.submit(job("k_bad", aborting_kernel())).result()
    assert failure.value.symbol == "k_bad"
    assert "SIGABRT" in failure.value.said
    assert "LLVM ERROR" in failure.value.said
    assert all(pool.submit(good()).result() for _ in range(4))


def test_an_error_of_tvm_keeps_the_worker(pool: Pool) -> None:
    before = {worker.pid for worker in pool.workers}
    with pytest.raises(KernelFailed, match="k_bad"):
        pool.submit(Job("k_bad", '{"kind": "llvm"}', "this is no module")).result()
    assert {worker.pid for worker in pool.workers} == before


def test_a_worker_killed_while_idle_is_replaced(pool: Pool) -> None:
    for future in [pool.submit(good()) for _ in range(4)]:
        future.result()
    victims = [worker.pid for worker in pool.workers if worker.pid]
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    while not all(ended(pid) for pid in victims):
        time.sleep(0.01)
    assert all(pool.submit(good()).result() for _ in range(4))
    assert not {worker.pid for worker in pool.workers} & set(victims)


def test_a_program_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(1)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(KernelFailed, match=r"cannot be started: .*No such file"):
        pool.submit(good()).result()
    monkeypatch.undo()
    assert pool.submit(good()).result()
    pool.close()


def test_a_build_names_region_and_layers_of_the_kernel_that_failed(pool: Pool) -> None:
    builder = scale_and_shift(target=parse_target("haswell"))
    builder.call("bad", lambda v: v, "y", layer="stage3.attention.proj", func=aborting_kernel())
    with pytest.raises(CodegenError, match=r"region bad of stage3\.attention\.proj(.|\n)*SIGABRT"):
        build(builder.outputs("bad").plan, builder.weights, builder.target, pool=pool)


def test_workers_end_with_their_parent() -> None:
    code = (
        "import os\nfrom planish.backends.tvm.worker import Pool\n"
        "p = Pool(1); p.workers[0].start(); print(p.workers[0].pid, flush=True)\nos._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    pid = int(done.stdout)
    for _ in range(1200):
        if ended(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def test_a_kernel_that_takes_too_long_fails_alone(pool: Pool) -> None:
    pool.submit(good()).result()
    with pytest.raises(KernelFailed, match=r"k_slow: the code generator gave no answer in \d"):
        pool.submit(unrolled("k_slow", 4000), seconds=0.3).result()
    assert pool.submit(good()).result()


def test_workers_end_with_a_parent_that_is_killed_while_they_compile() -> None:
    code = (
        "import os, signal, time\nfrom planish.backends.tvm.worker import Pool\n"
        "from runtime.test_worker import good, unrolled\n"
        "p = Pool(1); p.submit(good()).result(); p.submit(unrolled('k_slow', 6000))\n"
        "time.sleep(0.5); print(p.workers[0].pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    other = Pool(1)
    same = other.submit(unrolled("k_slow", 6000))
    while not ended(int(done.stdout)):
        assert not same.done(), "it lived for as long as it takes to compile"
        time.sleep(0.05)
    other.close()


def test_a_forked_child_leaves_the_pool_alone(pool: Pool) -> None:
    pool.submit(good()).result()
    child = os.fork()
    if child == 0:
        pool.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.submit(good()).result()
