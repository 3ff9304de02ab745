"""Persistent processes that compile kernels: a crash of LLVM costs one process, never the caller's.

pool.submit(job) -> Future[object file]      a crash or error -> KernelFailed(symbol, what was said)

Each process handles one kernel at a time (LLVM uses one thread for a module), is started once, and lives as
long as the pool: starting one takes 0.7 s. Processes end by themselves when their pipe closes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from .cpu import available_threads

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


class _Died(Exception):
    """The process closed its pipe."""


class Worker:
    """One process; restarted by the next job after a crash."""

    def __init__(self) -> None:
        """Nothing runs until `start` or the first job."""
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None

    @property
    def pid(self) -> int | None:
        """The process's id while it lives."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process if it does not run; returns before it is ready."""
        if self._process is not None:
            return
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        command = [sys.executable, "-P", str(_PROGRAM)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log)
        self._send(sys.path)

    def run(self, job: Job) -> bytes:
        """Compile one kernel here; raises KernelFailed."""
        if self._process is not None and self._process.poll() is not None:
            self.stop()  # it was killed while it had nothing to do
        try:
            self.start()
        except OSError as error:
            self.stop()
            raise KernelFailed(job.symbol, f"the code generator cannot be started: {error}") from None
        offset = self._log.seek(0, os.SEEK_END)
        try:
            self._send(tuple(job))
            status, value = self._receive()
        except (_Died, OSError):
            raise KernelFailed(job.symbol, self._last_words(offset)) from None
        if status == "error":
            raise KernelFailed(job.symbol, str(value))
        return bytes(value)

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if self._log is not None:
            self._log.close()
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # unsent bytes of a process that died
                    stream.close()
        process.kill()
        process.wait()

    def _send(self, value: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        data = pickle.dumps(value)
        self._process.stdin.write(struct.pack("<Q", len(data)) + data)
        self._process.stdin.flush()

    def _receive(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        head = self._process.stdout.read(8)
        if len(head) < 8:
            raise _Died
        size = struct.unpack("<Q", head)[0]
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise _Died
        return pickle.loads(data)

    def _last_words(self, offset: int) -> str:
        """How the process ended and what it printed since `offset`; leaves it stopped."""
        assert self._process is not None
        code = self._process.wait()
        self._log.seek(offset)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self.stop()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        errors = [line for line in lines if "ERROR" in line] or lines[-3:]
        return f"the code generator died ({how})" + (f": {' '.join(errors)[:500]}" if errors else "")


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

    def submit(self, job: Job, keep: Callable[[bytes], None] | None = None) -> Future[bytes]:
        """Compile one kernel on the next free worker; `keep` gets the object before the future is done."""
        return self._threads.submit(self._run, job, keep)

    def close(self) -> None:
        """Stop every process; a forked child leaves its parent's alone."""
        if self.owner != os.getpid():
            return
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self.workers:
            worker.stop()

    def _run(self, job: Job, keep: Callable[[bytes], None] | None) -> bytes:
        worker = self._free.get()
        try:
            data = worker.run(job)
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
