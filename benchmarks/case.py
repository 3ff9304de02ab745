"""What is measured: one model of the zoo at one batch, image size, precision and number of threads, by one engine.

case.sample() == zoo model and its inputs; the same seed gives the same weights and inputs to every engine
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

PRECISIONS = ("float32", "bfloat16")
SIZES = ("full", "small")


@dataclass(frozen=True)
class Case:
    """One measurement; `image` of 0 is the model's published image size, `tune` seconds are planish's alone."""

    model: str
    engine: str = "planish"
    threads: int = 2
    batch: int = 1
    image: int = 0
    precision: str = "float32"
    size: str = "full"
    tune: float = 0.0

    @property
    def sample_name(self) -> str:
        """What the inputs depend on, as the name of a folder."""
        return f"{self.model}-{self.size}-{self.batch}-{self.image}"

    @property
    def name(self) -> str:
        """What the compiled form depends on, as the name of a folder."""
        if self.engine == "peak":
            return f"peak-{self.threads}"
        return f"{self.sample_name}-{self.precision}-{self.threads}-{self.tune:g}-{self.engine}"

    def sample(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """The model in evaluation mode, and its arguments. Imports torch."""
        zoo = _zoo()
        entry = zoo.find(self.model)
        if not self.image:
            made = entry.full(self.batch) if self.size == "full" else entry.small(self.batch)
            return tuple(made)
        chosen = entry.full_size if self.size == "full" else entry.small_size
        resized = replace(chosen, inputs=zoo.image(self.image))
        return tuple(replace(entry, full_size=resized).full(self.batch))

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Case:
        """What `to_json` wrote."""
        return Case(**json.loads(text))


def known_models() -> tuple[str, ...]:
    """Names of the zoo, those that compare with others last. Imports torch."""
    return tuple(entry.name for entry in (*_zoo().ZOO, *_zoo().MORE))


def _zoo() -> Any:
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.insert(0, tests)
    import zoo

    return zoo
