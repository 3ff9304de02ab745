"""A child process that answers requests: it may crash, hang or be killed, and only the request under way is lost.

child.ask(request) -> reply          raises Died (it ended, how, and what it printed last) or TookTooLong

Frames are length-prefixed pickles of plain values over the child's stdin and stdout. Whoever asks again after an
error gets a new process. Time limits count the child's CPU time: on a busy or suspended machine nothing is late.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

STALLED = 20.0
"""A child that neither answers nor uses CPU time is given up after so many times its limit."""


class Died(Exception):
    """The process ended; `str()` says how, with its last words."""


class TookTooLong(Exception):
    """The process was ended because it did not answer in time; `str()` says after how many seconds."""


class Child:
    """One process, started by the first request and again by the first after it ended."""

    def __init__(
        self,
        command: Callable[[], Sequence[str]],
        greeting: Callable[[], Any],
        noun: str,
        stalled: float = STALLED,
    ) -> None:
        """`greeting` is the first value that every new process gets; `noun` is what errors call it.

        `stalled` is for a child that waits for others: it is given up after so many times its limit.
        """
        self._command = command
        self._greeting = greeting
        self._noun = noun
        self._stalled = stalled
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None

    @property
    def pid(self) -> int | None:
        """The process's id while it lives."""
        return self._process.pid if self._process else None

    def start(self) -> bool:
        """Start the process if it does not run; whether it is new. Returns before it is ready; raises Died."""
        if self._process is not None and self._process.poll() is not None:
            self.stop()  # it was killed while it had nothing to do
        if self._process is not None:
            return False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(self._command(), stdin=pipe, stdout=pipe, stderr=self._log, bufsize=0)
            self._send(self._greeting())
        except OSError as error:
            self.stop()
            raise Died(f"{self._noun} cannot be started: {error}") from None
        return True

    def ask(self, request: Any, seconds: float | None = None) -> Any:
        """The reply to a request; the process may use `seconds` of CPU time for it. Raises Died or TookTooLong."""
        self.start()
        offset = self._log.seek(0, os.SEEK_END)
        try:
            self._send(request)
            return self._receive(_Deadline(self.pid, seconds, self._stalled))
        except (EOFError, OSError):
            raise Died(self._last_words(offset)) from None
        except BaseException:  # the reply that is still to come would answer the next request
            self.stop()
            raise

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
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        for part in (struct.pack("<Q", len(data)), data):
            left = memoryview(part)
            while left:
                left = left[self._process.stdin.write(left) :]

    def _receive(self, deadline: _Deadline) -> Any:
        size = struct.unpack("<Q", self._read(8, deadline))[0]
        return pickle.loads(self._read(size, deadline))

    def _read(self, size: int, deadline: _Deadline) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        parts = bytearray()
        while len(parts) < size:
            while not ready.poll(deadline.wait()):
                deadline.check(self._noun)
            got = os.read(descriptor, min(size - len(parts), 1 << 20))
            if not got:
                raise EOFError
            parts += got
        return bytes(parts)

    def _last_words(self, offset: int) -> str:
        """How the process ended and what it printed since `offset`; leaves it stopped."""
        assert self._process is not None
        code = self._process.wait()
        self._log.seek(offset)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self.stop()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        errors = [line for line in lines if "ERROR" in line] or lines[-3:]
        return f"{self._noun} died ({how})" + (f": {' '.join(errors)[:500]}" if errors else "")


class _Deadline:
    """How long a reply may take."""

    def __init__(self, pid: int | None, seconds: float | None, stalled: float) -> None:
        self.pid = pid
        self.stalled = stalled
        self.seconds = seconds
        self.begin = time.monotonic()
        self.used = cpu_seconds(pid) if seconds is not None else 0.0

    def wait(self) -> int | None:
        """Milliseconds until the next look at the clock; None to wait for ever."""
        return None if self.seconds is None else max(10, min(1000, int(self.seconds * 250)))

    def check(self, noun: str) -> None:
        """Raise TookTooLong if the time is over."""
        if self.seconds is None or (passed := time.monotonic() - self.begin) < self.seconds:
            return
        if cpu_seconds(self.pid) - self.used >= self.seconds or passed >= self.stalled * self.seconds:
            raise TookTooLong(f"{noun} gave no answer in {passed:.1f} s")


def cpu_seconds(pid: int | None) -> float:
    """CPU time that a process has used, or 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
