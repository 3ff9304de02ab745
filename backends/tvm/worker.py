"""Persistent processes that compile kernels: a crash of LLVM costs one process, never the caller's.

pool.submit(job) -> Future[object file]      a crash or error -> KernelFailed(symbol, what was said)

Each process handles one kernel at a time (LLVM uses one thread for a module), is started once, and lives as
long as the pool: starting one takes 0.7 s. Processes end with the one that started them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .cpu import available_threads
from .process import Child, Died, TookTooLong

_PROGRAM = Path(__file__).with_name("codegen_process.py")


class Job(NamedTuple):
    """One kernel: its symbol, TVM's target and module as JSON."""

    symbol: str
    target: str
    module: str


class KernelFailed(Exception):
    """TVM refused a kernel, or its process died."""

    def __init__(self, symbol: str, said: str) -> None:
        """`said` is the message of TVM or LLVM."""
        super().__init__(f"{symbol}: {said}")
        self.symbol = symbol
        self.said = said


class Worker:
    """One process; restarted by the next job after a crash."""

    def __init__(self) -> None:
        """Nothing runs until `start` or the first job."""
        self._child = Child(lambda: [sys.executable, "-P", str(_PROGRAM)], _greeting, "the code generator")

    @property
    def pid(self) -> int | None:
        """The process's id while it lives."""
        return self._child.pid

    def start(self) -> None:
        """Start the process if it does not run; returns before it is ready."""
        with contextlib.suppress(Died):  # the first job says so
            self._child.start()

    def run(self, job: Job, seconds: float | None = None) -> bytes:
        """Compile one kernel here, in at most `seconds` of CPU time; raises KernelFailed."""
        try:
            status, value = self._child.ask(tuple(job), seconds)
        except (Died, TookTooLong) as error:
            raise KernelFailed(job.symbol, str(error)) from None
        if status == "error":
            raise KernelFailed(job.symbol, str(value))
        return bytes(value)

    def stop(self) -> None:
        """End the process."""
        self._child.stop()


def _greeting() -> tuple[int, list[str]]:
    """Whose child it is, and where it finds TVM."""
    return os.getpid(), sys.path


class Pool:
    """As many workers as cores; jobs wait for a free one."""

    def __init__(self, size: int | None = None) -> None:
        """`size` defaults to the cores this process may use, at most 16: each process holds a compiler."""
        self.size = size or min(available_threads(), 16)
        self.owner = os.getpid()
        self.workers = [Worker() for _ in range(self.size)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(self.size, "planish-codegen")

    def warm(self) -> None:
        """Start every process now; they get ready while the caller does something else."""
        for _ in range(self.size):
            self._threads.submit(self._warm_one)

    def submit(
        self, job: Job, keep: Callable[[bytes], None] | None = None, seconds: float | None = None
    ) -> Future[bytes]:
        """Compile one kernel on the next free worker; `keep` gets the object before the future is done.

        A kernel that needs more than `seconds` of CPU time fails.
        """
        return self._threads.submit(self._run, job, keep, seconds)

    def close(self) -> None:
        """Stop every process; a forked child leaves its parent's alone."""
        if self.owner != os.getpid():
            return
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self.workers:
            worker.stop()

    def _run(self, job: Job, keep: Callable[[bytes], None] | None, seconds: float | None) -> bytes:
        worker = self._free.get()
        try:
            data = worker.run(job, seconds)
        finally:
            self._free.put(worker)
        if keep is not None:
            keep(data)
        return data

    def _warm_one(self) -> None:
        worker = self._free.get()
        try:
            worker.start()
        finally:
            self._free.put(worker)


_lock = threading.Lock()
_pools: dict[int, Pool] = {}


def shared_pool() -> Pool:
    """This process's pool (a forked child gets its own), made at the first call."""
    with _lock:
        pool = _pools.get(os.getpid())
        if pool is None:
            pool = _pools[os.getpid()] = Pool()
            atexit.register(pool.close)
        return pool
