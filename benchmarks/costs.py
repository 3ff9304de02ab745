"""What a model costs besides its latency: memory, and seconds to compile, to tune and to load.

    python -m benchmarks.costs --models resnet50 --against openvino,onnxruntime

peak = the most memory that the process which runs the model ever held; the figure beside it is without what Python
and NumPy held before the engine came. Compiling is all from the PyTorch model to the file that is loaded (engines
that have no such file compile when they load, which then holds torch too). Loading ends with the first result.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import figures
from .case import Case
from .command import Command
from .measure import Measured, compare

HEAD = ("model", "engine", "peak MB", "above Python's", "compile s", "tune s", "load s", "error")


def main() -> None:
    """Measure, print the table, write what is asked for."""
    command = Command(__doc__)
    options = command.parse()

    def measure(case: Case, work: Path) -> list[Measured]:
        return compare(case, command.engines, work, options.rounds, options.seconds)

    title = f"{options.precision}, batch {options.batch}, {options.threads} threads"
    command.run("costs", title, command.cases(), measure, table)


def table(results: Sequence[Sequence[Measured]]) -> str:
    """One line a model and engine."""
    return figures.table(HEAD, [_row(measured) for group in results for measured in group])


def _row(measured: Measured) -> list[str]:
    case, known = measured.case, measured.figures
    if not measured.ms:
        return [case.model, case.engine, measured.refused or measured.failed, *["-"] * (len(HEAD) - 3)]
    peak, tune = known["peak_kb"] / 1024, known.get("tune_s", 0.0)
    return [
        case.model,
        case.engine,
        f"{peak:.0f}",
        f"{peak - known['before_kb'] / 1024:.0f}",
        f"{known['export_s'] - tune:.1f}",
        f"{tune:g}",
        f"{known['load_s']:.2f}",
        f"{known['error']:.1e}",
    ]


if __name__ == "__main__":
    main()
