"""A vision transformer with unified norms beside the same with layer norms, both compiled by planish.

    python -m benchmarks.norms --page docs/performance.md

Unified norms scale by running statistics: planish folds them into the weights around them, and none is left. Layer
norms look at every token. Peak memory is that of the process which runs the model, above what Python held before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import figures
from .case import Case
from .command import Command
from .measure import Measured, in_turns

PAIRS = {"deit_small": "deit_small_un"}
"""Networks with layer norms, and the same with unified ones."""
HEAD = ("model", "norms", "ms", "faster by", "memory MB", "less by", "calls", "error")


def main() -> None:
    """Measure, print the table, write what is asked for."""
    command = Command(__doc__, "planish", ())
    command.parser.set_defaults(models=",".join(PAIRS), rounds=10)
    options = command.parse()
    if lonely := [case.model for case in command.cases() if case.model not in PAIRS]:
        command.parser.error(f"no unified twin of {', '.join(lonely)}; there is {', '.join(PAIRS)}")

    def measure(case: Case, work: Path) -> list[Measured]:
        pair = [replace(case, model=name, engine="planish") for name in (case.model, PAIRS[case.model])]
        return in_turns(pair, work, options.rounds, options.seconds)

    title = f"{options.precision}, batch {options.batch}, {options.threads} threads"
    command.run("unified norms", title, command.cases(), measure, table)


def table(results: Sequence[Sequence[Measured]]) -> str:
    """Two lines a model."""
    return figures.table(HEAD, [row for group in results for row in _rows(group)])


def _rows(group: Sequence[Measured]) -> list[list[str]]:
    layer, unified = group
    if not (layer.ms and unified.ms):
        return [[m.case.model, "-", figures.cell(m), *["-"] * (len(HEAD) - 3)] for m in group]
    faster = f"{100 * (layer.median / unified.median - 1):.1f} %"
    less = f"{100 * (1 - above(unified) / above(layer)):.1f} %"
    return [
        [layer.case.model, "layer", figures.cell(layer), "", f"{above(layer):.0f}", "", *_end(layer)],
        [layer.case.model, "unified", figures.cell(unified), faster, f"{above(unified):.0f}", less, *_end(unified)],
    ]


def above(measured: Measured) -> float:
    """Megabytes at the peak, without Python's and NumPy's."""
    return (measured.figures["peak_kb"] - measured.figures["before_kb"]) / 1024


def _end(measured: Measured) -> list[str]:
    return [f"{measured.figures['calls']:.0f}", f"{measured.figures['error']:.1e}"]


if __name__ == "__main__":
    main()
