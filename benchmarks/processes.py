"""The side of the benchmarks that starts workers and asks them: one process for each engine and case.

Engines with spinning threads spoil each other inside one process, and even beside each other: exactly one worker
measures at a time (or one group, for throughput), the others wait silently for a line on stdin.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .case import ROOT, Case

WORKER = (sys.executable, "-m", "benchmarks.worker")


def beside(folder: Path, ending: str) -> Path:
    """What belongs to a case's folder; names of cases may hold points."""
    return folder.with_name(f"{folder.name}.{ending}")


class WorkerFailed(Exception):
    """A worker ended before it answered; its last words are the text."""


class Worker:
    """A process that answers lines."""

    def __init__(self, what: str, case: Case, folder: Path, cores: Sequence[int] = ()) -> None:
        """Start it, on `cores` only if they are named."""
        self.log = beside(folder, f"{what}.log")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(case.threads),
            "TORCHINDUCTOR_CACHE_DIR": str(beside(folder, "cache")),
        }
        command = [*WORKER, what, case.to_json(), str(folder)]
        if cores:
            command = ["taskset", "-c", ",".join(map(str, cores)), *command]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ask(self, line: str) -> None:
        """Send one line; `answer` reads what comes back."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            self._failed()

    def answer(self) -> dict[str, Any]:
        """The next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return dict(json.loads(line)) if line else self._failed()

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdout.close()
        with contextlib.suppress(OSError):  # it is gone already
            self.process.stdin.close()
        self.process.wait()

    def _failed(self) -> Any:
        status = self.process.wait()
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise WorkerFailed(lines[-1][:200] if lines else f"it ended with status {status}")


def once(what: str, case: Case, folder: Path) -> dict[str, Any]:
    """A worker that does one thing and ends."""
    worker = Worker(what, case, folder)
    try:
        return worker.answer()
    finally:
        worker.close()


def exported(case: Case, work: Path) -> dict[str, Any]:
    """Figures of the export to `work`, which is done unless it was before."""
    folder = work / case.name
    done = beside(folder, "export.json")
    sample = work / f"{case.sample_name}.npz"  # read when serving, also by an engine that needs no export
    if not sample.is_file():
        once("sample", case, sample)
    held = work / f"{case.sample_name}.held.npz"
    if case.precision == "int8" and not held.is_file():
        once("held", case, held)
    if not done.is_file():
        done.write_text(json.dumps(once("export", case, folder)), encoding="utf-8")
    return dict(json.loads(done.read_text(encoding="utf-8")))


def ready(case: Case, work: Path, cores: Sequence[int] = ()) -> tuple[Worker, dict[str, Any]]:
    """A worker that has loaded the exported case, and its figures so far."""
    figures = exported(case, work)
    start = time.perf_counter()
    worker = Worker("serve", case, work / case.name, cores)
    return worker, {**figures, **worker.answer(), "ready_s": time.perf_counter() - start}


def take_turns(groups: Sequence[Sequence[Worker]], rounds: int, seconds: float) -> list[list[list[float]]]:
    """Milliseconds by group and worker; a group measures together, the order of groups turns round every time."""
    found: list[list[list[float]]] = [[[] for _ in group] for group in groups]
    for turn in range(rounds):
        order = range(len(groups))
        for index in order if turn % 2 == 0 else reversed(order):
            for worker in groups[index]:
                worker.ask(f"slice {seconds}")
            for times, worker in zip(found[index], groups[index], strict=True):
                times += worker.answer()["ms"]
    return found
