"""ConvBN Tune mode beside eval mode and beside inductor's own pass: a training step, and what it keeps in memory.

    python -m benchmarks.tune_mode --models resnet50 --batch 32 --page docs/performance.md

step = forward + backward of all parameters, each way in its own process, in turns; at least three steps a turn
saved = bytes kept for the backward pass: storages that are no parameters, each once (saved-tensor hooks)

"of eval" compares with eval mode under the same engine. The second table compares gradients with eval mode's in
float64, for the model at a small batch and for networks that inductor's pass does not get right; there its pass
rewrites the graph and eager runs it. Inductor compiles for minutes unless --keep has what it made before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import figures
from .case import Case
from .command import Command
from .engines import TRAINING
from .measure import Measured, compare

HEAD = ("model", "way", "step ms", "of eval", "saved MB", "of eval", "peak MB", "error")
EVAL = {"inductor_tune": "inductor_eval", "inductor_own": "inductor_eval"}
"""What each way replaces; for all others that is `eval`."""


def main() -> None:
    """Measure, print the tables, write what is asked for."""
    command = Command(__doc__, "tune", tuple(TRAINING)[1:])
    command.parser.set_defaults(models="resnet50", batch=32, rounds=2, seconds=0.0)
    options = command.parse()
    from . import tune_checks

    checked = [tune_checks.whole_network(case) for case in command.cases()] + tune_checks.hard_networks()
    command.also["gradients"] = [check.to_json() for check in checked]
    rows = [[check.name, check.own, check.tune] for check in checked]
    second = figures.table(["gradients of", "inductor's own pass", "Tune mode"], rows)

    def measure(case: Case, work: Path) -> list[Measured]:
        return compare(case, command.engines, work, options.rounds, options.seconds)

    title = f"{options.precision}, batch {options.batch}, {options.threads} threads"
    command.run("tune mode", title, command.cases(), measure, lambda results: f"{table(results)}\n\n{second}")


def table(results: Sequence[Sequence[Measured]]) -> str:
    """One line a model and way."""
    return figures.table(HEAD, [_row(measured, group) for group in results for measured in group])


def _row(measured: Measured, group: Sequence[Measured]) -> list[str]:
    case, known = measured.case, measured.figures
    if not measured.ms:
        return [case.model, case.engine, measured.refused or measured.failed, *["-"] * (len(HEAD) - 3)]
    replaced = next((m for m in group if m.case.engine == EVAL.get(case.engine, "eval") and m.ms), None)
    step, kept = "-", "-"
    if replaced is not None:
        step = f"{measured.median / replaced.median:.2f}"
        kept = f"{known['saved_bytes'] / replaced.figures['saved_bytes']:.2f}"
    return [
        case.model,
        case.engine,
        figures.cell(measured),
        step,
        f"{known['saved_bytes'] / 1e6:.0f}",
        kept,
        f"{known['peak_kb'] / 1024:.0f}",
        f"{known['error']:.1e}",
    ]


if __name__ == "__main__":
    main()
