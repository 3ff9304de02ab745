"""The command line that all benchmarks share: which models, engines and sizes, how long, and where results go."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from planish.quantization import OBSERVERS

from . import page
from .case import PRECISIONS, SIZES, Case, known_models
from .engines import PEERS
from .figures import line
from .machine import describe
from .measure import Measured

Results = Sequence[Sequence[Measured]]
"""For each case, what became of it by engine."""

Measure = Callable[[Case, Path], list[Measured]]
Table = Callable[[Results], str]


class Command:
    """Options of one benchmark, checked."""

    def __init__(self, description: str | None, ours: str = "planish", peers: Sequence[str] = PEERS) -> None:
        """Arguments that a benchmark adds go to `parser`; `ours` is always measured, `peers` if asked for."""
        raw = argparse.RawDescriptionHelpFormatter
        self.parser = argparse.ArgumentParser(description=description, formatter_class=raw)
        add = self.parser.add_argument
        add("--models", default="all", help="names of the zoo, with commas between")
        wanted = PEERS[1:] if peers is PEERS else peers
        add("--against", default=",".join(wanted), help=f"engines beside {ours}: {', '.join(peers)}")
        add("--threads", type=int, default=2)
        add("--batch", type=int, default=1)
        add("--precision", choices=PRECISIONS, default="float32")
        add("--tune", type=float, default=0.0, help="seconds that planish tunes each model")
        add("--observer", choices=OBSERVERS, default=OBSERVERS[0], help="how planish finds ranges of integers")
        add("--rounds", type=int, default=6, help="turns of each engine")
        add("--seconds", type=float, default=1.0, help="length of a turn")
        add("--size", choices=SIZES, default="full")
        add("--keep", type=Path, help="a folder for the compiled models; what lies there already is measured again")
        add("--json", type=Path, help="also write the figures here")
        add("--page", type=Path, help="also write table and plot into this page, such as docs/performance.md")
        self.options = argparse.Namespace()
        self.arguments: list[str] = []
        self.engines: tuple[str, ...] = ()
        self.also: dict[str, Any] = {}
        """Further figures for the JSON."""
        self._ours, self._peers = ours, peers

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Options; ends the program where a name is unknown."""
        self.arguments = sys.argv[1:] if arguments is None else list(arguments)
        self.options = self.parser.parse_args(self.arguments)
        against = [name for name in self.options.against.split(",") if name]
        self._known("engine", against, self._peers)
        self.engines = (self._ours, *against)
        return self.options

    def cases(self) -> list[Case]:
        """One for each model, to be measured by every engine."""
        names = known_models()
        chosen = names if self.options.models == "all" else tuple(self.options.models.split(","))
        self._known("model", chosen, names)
        o = self.options
        case = Case("", "", o.threads, o.batch, 0, o.precision, o.size, o.tune, o.observer)
        return [replace(case, model=name) for name in chosen]

    @contextmanager
    def work(self) -> Iterator[Path]:
        """A folder for compiled models, with an empty object cache of planish inside."""
        with tempfile.TemporaryDirectory(prefix="planish-benchmark-") as temporary:
            folder = (self.options.keep or Path(temporary)).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            os.environ["PLANISH_CACHE_DIR"] = str(folder / "objects")
            yield folder

    def run(
        self, what: str, title: str, cases: Iterable[Case], measure: Measure, table: Table, plot: bool = False
    ) -> NoReturn:
        """Measure every case and print the table; leaves with 1 if an engine failed.

        Files are written after each case, so that a long benchmark that is interrupted keeps what it has.
        """
        results: list[list[Measured]] = []
        with self.work() as work:
            for case in cases:
                results.append(measure(case, work))
                print(line(results[-1]), file=sys.stderr, flush=True)
                self._write(what, title, table(results), results, plot)
        print(table(results))
        sys.exit(any(measured.failed for group in results for measured in group))

    def _write(self, what: str, title: str, table: str, results: Results, plot: bool) -> None:
        machine = describe()
        if self.options.json:
            rows = [measured.to_json() for group in results for measured in group]
            written: dict[str, Any] = {"what": what, "command": self.typed, "machine": machine, "results": rows}
            written |= self.also
            self.options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        if self.options.page:
            name = f"{what} {title}"
            parts = [f"**{what}: {title}**", "", table, "", self._made_by(machine)]
            if plot:
                from .plot import factors

                picture = self.options.page.with_name(re.sub(r"[^a-z0-9]+", "-", name) + ".svg")
                factors(results, picture, title)
                parts += ["", f"![{name}]({picture.name})"]
            page.write(self.options.page, name, "\n".join(parts))

    @property
    def typed(self) -> str:
        """The command line, without the files it writes."""
        hidden = [str(value) for value in (self.options.json, self.options.page, self.options.keep) if value]
        words = [word for word in self.arguments if word not in ("--json", "--page", "--keep", *hidden)]
        return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *words])

    def _made_by(self, machine: dict[str, str]) -> str:
        versions = ", ".join(f"{name} {value}" for name, value in machine.items() if name not in ("cpu", "cores"))
        return f"`{self.typed}` on {machine['cpu']}, {machine['cores']} cores, with {versions}."

    def _known(self, what: str, given: Sequence[str], known: Sequence[str]) -> None:
        unknown = [name for name in given if name not in known]
        if unknown:
            self.parser.error(f"no {what} {', '.join(unknown)}; there is {', '.join(known)}")
