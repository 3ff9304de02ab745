"""Throughput of several instances of one thread each, every instance in its own process on its own core.

    python -m benchmarks.throughput --models resnet50 --against openvino --instances 2

samples a second = sum over the instances of batch / median
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import figures
from .case import Case
from .command import Command
from .measure import Measured, compare


def main() -> None:
    """Measure, print the table, write what is asked for."""
    command = Command(__doc__)
    command.parser.add_argument("--instances", type=int, default=2)
    command.parser.set_defaults(threads=1)
    options = command.parse()

    def measure(case: Case, work: Path) -> list[Measured]:
        one = replace(case, threads=1)
        return compare(one, command.engines, work, options.rounds, options.seconds, options.instances)

    title = f"{options.instances} x 1 thread, {options.precision}, batch {options.batch}"
    command.run("throughput", title, command.cases(), measure, table)


def table(results: Sequence[Sequence[Measured]]) -> str:
    """Samples a second, and planish's over the best peer's."""
    engines = [m.case.engine for m in results[0]]
    rows = []
    for group in results:
        rates = {m.case.engine: m.per_second for m in group if m.ms}
        cells = [f"{rates[e]:.1f}" if e in rates else _why(group, e) for e in engines]
        peers = [rate for engine, rate in rates.items() if engine != "planish"]
        factor = f"{rates['planish'] / max(peers):.2f}" if peers and "planish" in rates else "-"
        rows.append([group[0].case.model, *cells, factor])
    return figures.table(["model", *engines, "planish / best peer"], rows)


def _why(group: Sequence[Measured], engine: str) -> str:
    measured = next(m for m in group if m.case.engine == engine)
    return measured.refused or measured.failed


if __name__ == "__main__":
    main()
