"""planish: one artifact, compiled in one process and loaded in another that has neither torch nor TVM's compiler."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ..case import Case
from .base import Arrays, Call


class Planish:
    """Compiled with a tuning database and an object cache of its own, so that nothing is known beforehand."""

    def refuses(self, case: Case) -> str | None:
        """It has every form."""
        return None

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Compile, tune if asked, save."""
        import planish

        model, args, kwargs = case.sample()
        options: dict[str, Any] = {"precision": case.precision, "threads": case.threads, "progress": False}
        if case.tune:
            options |= {"tune": case.tune, "tuning_db": folder / "tuning.db"}
        start = time.perf_counter()
        compiled = planish.compile(model, args, example_kwargs=kwargs, **options)
        seconds = time.perf_counter() - start
        compiled.save(folder / "model.planish")
        return {"compile_s": seconds}

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Call:
        """The artifact."""
        import planish

        compiled = planish.load(folder / "model.planish", threads=case.threads)
        values = list(inputs)
        return lambda: compiled.run_flat(values)

    def outputs(self, result: Any) -> list[np.ndarray]:
        """They are arrays."""
        return [np.asarray(array) for array in result]
