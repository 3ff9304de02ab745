"""How latency grows with the batch, the threads or the size of the image.

python -m benchmarks.growth --models resnet50 --over batch --values 1,2,4,8,16,32 --against openvino
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from . import figures
from .command import Command
from .measure import Measured, compare

OVER = ("batch", "threads", "image")


def main() -> None:
    """Measure every value, print the table, write what is asked for."""
    command = Command(__doc__)
    command.parser.add_argument("--over", choices=OVER, default="batch")
    command.parser.add_argument("--values", default="1,2,4,8,16,32", help="with commas between")
    options = command.parse()
    results = []
    with command.work() as work:
        for model in command.cases():
            for value in map(int, options.values.split(",")):
                case = replace(model, **{options.over: value})
                results.append(compare(case, command.engines, work, options.rounds, options.seconds))
                print(f"{options.over} {value}: {figures.line(results[-1])}", file=sys.stderr, flush=True)
    command.publish(f"growth-{options.over}", f"{options.precision}", table(results, options.over), results)


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
