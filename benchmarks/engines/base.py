"""What an engine is to the benchmarks.

load(export(model), case).call() ≈ model(*inputs)      in two processes: one that has PyTorch, one that runs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..case import Case

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Loaded:
    """A model ready to run on fixed inputs."""

    call: Callable[[], Any]
    """One inference, which reads the inputs' arrays anew; its result is what `outputs` reads."""
    outputs: Callable[[Any], list[np.ndarray]] | None
    """Arrays of float32, to be compared with the reference; None for what computes no model."""
    figures: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """One engine."""

    def refuses(self, case: Case) -> str | None:
        """Why the engine has no such form, or None."""

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Write what `load` reads; returns further figures of the compilation, such as seconds of tuning."""

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Loaded:
        """Read it."""
