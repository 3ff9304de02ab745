"""What is measured: one model of the zoo at one batch, image size, precision and number of threads, by one engine.

case.sample() == zoo model and its inputs; the same seed gives the same weights and inputs to every engine
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from planish.quantization import OBSERVERS

ROOT = Path(__file__).resolve().parent.parent

PRECISIONS = ("float32", "bfloat16", "int8")
SIZES = ("full", "small")
OURS = ("planish", "merged")
CALIBRATION, CALIBRATION_SEED = 64, 64
"""How many inputs every engine calibrates on, and what they are drawn with; the sample has another seed."""
HELD_OUT, HELD_OUT_SEED = 8, 1008
"""Further inputs that int8's error is measured on."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a call, by position and by name."""


@dataclass(frozen=True)
class Case:
    """One measurement; `image` of 0 is the published size, `tune` seconds and `observer` are planish's alone."""

    model: str
    engine: str = "planish"
    threads: int = 2
    batch: int = 1
    image: int = 0
    precision: str = "float32"
    size: str = "full"
    tune: float = 0.0
    observer: str = OBSERVERS[0]

    @property
    def sample_name(self) -> str:
        """What the inputs depend on, as the name of a folder."""
        return f"{self.model}-{self.size}-{self.batch}-{self.image}"

    @property
    def name(self) -> str:
        """What the compiled form depends on, as the name of a folder."""
        if self.engine == "peak":
            return f"peak-{self.threads}"
        ranges = "" if self.observer == OBSERVERS[0] or self.engine not in OURS else f"-{self.observer}"
        return f"{self.sample_name}-{self.precision}-{self.threads}-{self.tune:g}-{self.engine}{ranges}"

    def sample(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """The model in evaluation mode, and its arguments. Imports torch."""
        entry = _zoo().find(self.model)
        return tuple(replace(entry, full_size=self._drawn()).full(self.batch))

    @property
    def transformer(self) -> bool:
        """Whether it is one; imports torch."""
        return bool(_zoo().find(self.model).family == "transformer")

    def calibration(self) -> Iterator[Call]:
        """What every engine calibrates on: inputs of the sample's kind, none of which is measured later."""
        return self._calls(CALIBRATION_SEED, CALIBRATION)

    def held_out(self) -> Iterator[Call]:
        """Inputs that nobody has seen."""
        return self._calls(HELD_OUT_SEED, HELD_OUT)

    def _calls(self, seed: int, count: int) -> Iterator[Call]:
        import torch

        draw, generator = self._drawn().inputs, torch.Generator().manual_seed(seed)
        return (draw(generator, self.batch) for _ in range(count))

    def _drawn(self) -> Any:
        """The model's size, and how its inputs are made."""
        entry = _zoo().find(self.model)
        chosen = entry.full_size if self.size == "full" else entry.small_size
        return replace(chosen, inputs=_zoo().image(self.image)) if self.image else chosen

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
