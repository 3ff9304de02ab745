"""What an engine is to the benchmarks.

load(export(model), case)() ≈ model(*inputs)      in two processes: one that has PyTorch, one that runs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..case import Case

Arrays = Sequence[np.ndarray]
Call = Callable[[], Any]
"""One inference on the fixed inputs; its result is what `outputs` reads."""


class Engine(Protocol):
    """One engine. Instances hold nothing but what `load` made."""

    def refuses(self, case: Case) -> str | None:
        """Why the engine has no such form, or None."""

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Write what `load` reads; returns further figures of the compilation, such as seconds of tuning."""

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Call:
        """The model ready to be called on `inputs`."""

    def outputs(self, result: Any) -> list[np.ndarray]:
        """The arrays of a call's result, float32."""
