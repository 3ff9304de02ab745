"""The command line that all benchmarks share: which models, engines and sizes, how long, and where results go."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .case import PRECISIONS, SIZES, Case, known_models
from .engines import PEERS
from .machine import describe
from .measure import Measured

Results = Sequence[Sequence[Measured]]
"""For each case, what became of it by engine."""


class Command:
    """Options of one benchmark, checked."""

    def __init__(self, description: str | None) -> None:
        """Arguments that a benchmark adds go to `parser`."""
        raw = argparse.RawDescriptionHelpFormatter
        self.parser = argparse.ArgumentParser(description=description, formatter_class=raw)
        add = self.parser.add_argument
        add("--models", default="all", help="names of the zoo, with commas between")
        add("--against", default=",".join(PEERS[1:]), help=f"engines beside planish: {', '.join(PEERS)}")
        add("--threads", type=int, default=2)
        add("--batch", type=int, default=1)
        add("--precision", choices=PRECISIONS, default="float32")
        add("--tune", type=float, default=0.0, help="seconds that planish tunes each model")
        add("--rounds", type=int, default=6, help="turns of each engine")
        add("--seconds", type=float, default=1.0, help="length of a turn")
        add("--size", choices=SIZES, default="full")
        add("--keep", type=Path, help="a folder for the compiled models; what lies there already is measured again")
        add("--json", type=Path, help="also write the figures here")
        add("--page", type=Path, help="also write table and plot into this page, such as docs/performance.md")
        self.options = argparse.Namespace()
        self.engines: tuple[str, ...] = ()

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Options; ends the program where a name is unknown."""
        self.options = self.parser.parse_args(arguments)
        against = [name for name in self.options.against.split(",") if name]
        self._known("engine", against, PEERS)
        self.engines = ("planish", *against)
        return self.options

    def cases(self) -> list[Case]:
        """One for each model, to be measured by every engine."""
        names = known_models()
        chosen = names if self.options.models == "all" else tuple(self.options.models.split(","))
        self._known("model", chosen, names)
        o = self.options
        case = Case("", "", o.threads, o.batch, 0, o.precision, o.size, o.tune)
        return [replace(case, model=name) for name in chosen]

    @contextmanager
    def work(self) -> Iterator[Path]:
        """A folder for compiled models, with an empty object cache of planish inside."""
        with tempfile.TemporaryDirectory(prefix="planish-benchmark-") as temporary:
            folder = (self.options.keep or Path(temporary)).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            os.environ["PLANISH_CACHE_DIR"] = str(folder / "objects")
            yield folder

    def finish(self, results: Results) -> None:
        """Write the JSON, and leave with 1 if an engine failed."""
        if self.options.json:
            rows = [measured.to_json() for group in results for measured in group]
            written: dict[str, Any] = {"machine": describe(), "command": sys.argv, "results": rows}
            self.options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        sys.exit(any(measured.failed for group in results for measured in group))

    def _known(self, what: str, given: Sequence[str], known: Sequence[str]) -> None:
        unknown = [name for name in given if name not in known]
        if unknown:
            self.parser.error(f"no {what} {', '.join(unknown)}; there is {', '.join(known)}")
