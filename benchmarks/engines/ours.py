"""planish: one artifact, compiled in one process and loaded in another that has neither torch nor TVM's compiler.

The machine's peak is measured by what every artifact brings for it: operations of a probe / its time.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ..case import Case
from .base import Arrays, Loaded


class Planish:
    """Compiled with a tuning database of its own, so that nothing is known beforehand."""

    def refuses(self, case: Case) -> str | None:
        """It has every form."""
        return None

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Compile, tune if asked, save."""
        import planish

        model, args, kwargs = self.model(case)
        options: dict[str, Any] = {"precision": case.precision, "threads": case.threads, "progress": False}
        if case.precision == "int8":
            options["precision"] = planish.Quantization(observer=case.observer)
            options["calibration"] = [kwargs or args for args, kwargs in case.calibration()]
        if case.tune:
            options |= {"tune": case.tune, "tuning_db": str(folder / "tuning.db")}
        start = time.perf_counter()
        compiled = planish.compile(model, args, example_kwargs=kwargs, **options)
        seconds = time.perf_counter() - start
        compiled.save(folder / "model.planish")
        tuning = compiled.manifest["tuning"]
        tuned = tuning["seconds"] if tuning else 0.0  # a search ends early where nothing is left to try
        return {"compile_s": seconds - tuned, "tune_s": tuned}

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Loaded:
        """The artifact, and how many operations its call table counts."""
        import planish

        compiled = planish.load(folder / "model.planish", threads=case.threads)
        values = list(inputs)
        counts = {"flops": sum(step["flops"] for step in compiled.steps), "calls": len(compiled.steps)}
        return Loaded(lambda: compiled.run_flat(values), lambda result: [np.asarray(a) for a in result], counts)

    def model(self, case: Case) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """What is compiled."""
        return case.sample()


class Merged(Planish):
    """planish, given the model with its branches merged by hand; it is compared with the model as trained."""

    def model(self, case: Case) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Every block that the zoo knows how to merge is one convolution."""
        model, args, kwargs = case.sample()
        from zoo.merging import deployed

        return deployed(model), args, kwargs


class Peak:
    """No model: multiply-adds in registers, as many threads, in turns with the engines."""

    def refuses(self, case: Case) -> str | None:
        """Where the CPU has no such arithmetic, loading says so."""
        return None

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Any artifact has the probes."""
        import torch

        import planish

        planish.compile(torch.nn.ReLU().eval(), (torch.randn(4),), threads=case.threads, progress=False).save(
            folder / "model.planish"
        )
        return {}

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Loaded:
        """The probe of the case's precision."""
        import planish

        dtype = "uint8" if case.precision == "int8" else case.precision
        call, operations = planish.load(folder / "model.planish", threads=case.threads).probe(dtype)
        return Loaded(call, None, {"flops": operations})
