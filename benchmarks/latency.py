"""Latency of the zoo: planish against other engines, each in its own process, in turns.

    python -m benchmarks.latency --models resnet18,resnet50 --against eager,inductor --threads 2 --batch 1

Engines with spinning threads spoil each other inside one process, so every engine and model has a worker of its
own; the workers of a model measure one slice at a time, in turns, and wait silently in between. Weights are seeded,
inputs fixed. The figure is the median over all slices, its spread the quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ENGINES = ("planish", "eager", "inductor")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: median and quartiles over all slices; seconds until the first result."""

    model: str
    engine: str
    median: float
    low: float
    high: float
    calls: int
    start_s: float
    error: str = ""


class Worker:
    """A process that has one engine ready and measures a slice when asked."""

    def __init__(self, model: str, engine: str, options: argparse.Namespace) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        command = [sys.executable, "-m", "benchmarks.latency_worker", model, engine]
        command += [str(options.threads), str(options.batch), str(options.seconds), options.size]
        self.model, self.engine, self.times = model, engine, list[float]()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.start_s, self.error = 0.0, ""
        ready = self._read()
        self.start_s = ready.get("start_s", 0.0)

    def slice(self) -> None:
        """Measure for a while."""
        if self.error:
            return
        assert self.process.stdin is not None
        self.process.stdin.write("slice\n")
        self.process.stdin.flush()
        self.times += self._read().get("ms", [])

    def finish(self) -> Latency:
        """End the process and sum up."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        if not self.times:
            return Latency(self.model, self.engine, 0, 0, 0, 0, self.start_s, self.error or "no result")
        low, median, high = statistics.quantiles(self.times, n=4, method="inclusive")
        return Latency(self.model, self.engine, median, low, high, len(self.times), self.start_s)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.error = f"the worker ended with status {self.process.wait()}"
            return {}
        return dict(json.loads(line))


def measure(model: str, options: argparse.Namespace) -> list[Latency]:
    """All engines on one model, in turns."""
    workers = []
    for engine in ("planish", *options.against):
        print(f"{model}: {engine} gets ready", file=sys.stderr, flush=True)
        workers.append(Worker(model, engine, options))
    for turn in range(options.rounds):
        for worker in workers if turn % 2 == 0 else reversed(workers):
            worker.slice()
    return [worker.finish() for worker in workers]


def table(rows: Sequence[Latency], against: Sequence[str]) -> str:
    """Markdown: one line a model, milliseconds as median (quartiles), and the first peer's time over ours."""
    by = {(row.model, row.engine): row for row in rows}
    engines = ("planish", *against)
    lines = [f"| model | {' | '.join(engines)} | {against[0]} / planish |", "|---" * (len(engines) + 2) + "|"]
    for model in dict.fromkeys(row.model for row in rows):
        cells = [_cell(by[model, engine]) for engine in engines]
        ours, theirs = by[model, "planish"].median, by[model, against[0]].median
        lines.append(f"| {model} | {' | '.join(cells)} | {f'{theirs / ours:.2f}' if ours and theirs else '-'} |")
    return "\n".join(lines)


def _cell(row: Latency) -> str:
    return row.error or f"{row.median:.2f} ({row.low:.2f} to {row.high:.2f})"


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="all", help="names of the zoo, with commas between")
    parser.add_argument("--against", default="eager", help=f"engines beside planish: {', '.join(ENGINES[1:])}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6, help="turns of each engine")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    options.against = [name for name in options.against.split(",") if name]
    unknown = [name for name in options.against if name not in ENGINES[1:]]
    if unknown or not options.against:
        parser.error(f"--against takes {', '.join(ENGINES[1:])}, not {', '.join(unknown) or 'nothing'}")
    rows = [row for model in _models(options.models, parser) for row in measure(model, options)]
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    print(table(rows, options.against))
    sys.exit(any(row.error for row in rows))


def _models(given: str, parser: argparse.ArgumentParser) -> list[str]:
    sys.path.insert(0, str(ROOT / "tests"))
    from zoo import ZOO

    names = [entry.name for entry in ZOO]
    chosen = names if given == "all" else given.split(",")
    unknown = [name for name in chosen if name not in names]
    if unknown:
        parser.error(f"no {', '.join(unknown)} in the zoo; it has {', '.join(names)}")
    return chosen


if __name__ == "__main__":
    main()
