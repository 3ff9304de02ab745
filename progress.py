"""Progress of what lasts longer than a moment: a bar on a terminal, a caller's function, or silence.

with showing(progress) as report: report("kernels", done, total)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .options import Progress


@contextmanager
def showing(progress: bool | Progress | None) -> Iterator[Progress]:
    """A function of (what, done, total). None shows a bar if standard error is a terminal, True always."""
    if callable(progress):
        yield progress
    elif progress or (progress is None and sys.stderr.isatty()):
        with _bars() as report:
            yield report
    else:
        yield silent


def silent(what: str, done: int, total: int) -> None:
    """Report to nobody."""


@contextmanager
def _bars() -> Iterator[Progress]:
    """One bar for each `what` up to its colon; they vanish at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def report(what: str, done: int, total: int) -> None:
            kind = what.partition(":")[0]
            if kind not in tasks:
                tasks[kind] = bars.add_task(what, total=total)
            bars.update(tasks[kind], description=what, completed=done, total=total)

        yield report
