"""Networks as trained beside the same merged by hand: planish compiles both, and both should be the same kernels.

    python -m benchmarks.merged --page docs/performance.md

"merged" are networks in which every block was replaced by the one convolution it amounts to, weights computed from
the trained ones before planish sees the model. "kernels" says whether both make the same calls in the same order:
symbols are hashes of what a kernel computes, so equal symbols are equal code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import figures
from .case import Case
from .command import Command
from .measure import Measured, compare

HEAD = ("model", "as trained ms", "merged by hand ms", "trained / merged", "calls", "kernels", "error")


def main() -> None:
    """Measure, print the table, write what is asked for."""
    command = Command(__doc__, "planish", ("merged",))
    command.parser.set_defaults(models="repvgg_a0,mobileone_s0,fastvit_t8", rounds=10)
    options = command.parse()
    calls: dict[str, list[list[str]]] = {}

    def measure(case: Case, work: Path) -> list[Measured]:
        found = compare(case, command.engines, work, options.rounds, options.seconds)
        calls[case.model] = [symbols(work / replace(case, engine=m.case.engine).name) for m in found if m.ms]
        command.also["same_kernels"] = {name: lists[:-1] == lists[1:] for name, lists in calls.items()}
        return found

    title = f"{options.precision}, batch {options.batch}, {options.threads} threads"
    command.run("as trained", title, command.cases(), measure, lambda results: table(results, calls))


def symbols(folder: Path) -> list[str]:
    """The kernels that an artifact calls, in order."""
    import planish

    return [step["symbol"] for step in planish.load(folder / "model.planish").steps]


def table(results: Sequence[Sequence[Measured]], calls: dict[str, list[list[str]]]) -> str:
    """One line a model."""
    return figures.table(HEAD, [_row(group, calls[group[0].case.model]) for group in results])


def _row(group: Sequence[Measured], calls: Sequence[Sequence[str]]) -> list[str]:
    trained, merged = group
    cells = [trained.case.model, figures.cell(trained), figures.cell(merged)]
    if not (trained.ms and merged.ms):
        return [*cells, *["-"] * (len(HEAD) - 3)]
    same = "the same" if calls[0] == calls[1] else "others"
    counts = " and ".join(str(len(symbols)) for symbols in calls)
    return [*cells, f"{trained.median / merged.median:.3f}", counts, same, f"{trained.figures['error']:.1e}"]


if __name__ == "__main__":
    main()
