"""How latency grows with the batch, the threads or the size of the image.

python -m benchmarks.growth --models resnet50 --over batch --values 1,2,4,8,16,32 --against openvino
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import figures
from .case import Case
from .command import Command
from .measure import Measured, compare

OVER = ("batch", "threads", "image")


def main() -> None:
    """Measure every value, print the table, write what is asked for."""
    command = Command(__doc__)
    command.parser.add_argument("--over", choices=OVER, default="batch")
    command.parser.add_argument("--values", default="1,2,4,8,16,32", help="with commas between")
    options = command.parse()
    values = [int(value) for value in options.values.split(",")]
    cases = [replace(case, **{options.over: value}) for case in command.cases() for value in values]

    def measure(case: Case, work: Path) -> list[Measured]:
        return compare(case, command.engines, work, options.rounds, options.seconds)

    command.run(f"growth by {options.over}", options.precision, cases, measure, lambda r: table(r, options.over))


def table(results: Sequence[Sequence[Measured]], over: str) -> str:
    """Milliseconds, the factor, and samples a second of planish."""
    engines = [m.case.engine for m in results[0]]
    rows = []
    for group in results:
        ours = next(m for m in group if m.case.engine == "planish")
        ratio = figures.factor(group)
        rows.append(
            [
                group[0].case.model,
                str(getattr(group[0].case, over)),
                *(figures.cell(m) for m in group),
                "-" if ratio is None else f"{ratio:.2f}",
                f"{ours.per_second:.1f}" if ours.ms else "-",
            ]
        )
    return figures.table(["model", over, *engines, "fastest peer / planish", "planish, a second"], rows)


if __name__ == "__main__":
    main()
