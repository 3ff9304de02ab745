"""PyTorch: eager, and torch.compile through inductor with frozen weights and its autotuned kernels.

Neither has a form to save that runs without torch: the model is made again where it runs.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from ..case import Case
from .base import Arrays, Call


class Eager:
    """The model as it is; for bfloat16 its weights and arithmetic are converted, which autocast does call by call."""

    def refuses(self, case: Case) -> str | None:
        """It has every form."""
        return None

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Nothing to do."""
        return {}

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Call:
        """The model in memory."""
        import torch

        torch.set_num_threads(case.threads)
        model, args, kwargs = case.sample()
        narrow = case.precision == "bfloat16"

        def call() -> Any:
            context = torch.autocast("cpu", dtype=torch.bfloat16) if narrow else contextlib.nullcontext()
            with torch.inference_mode(), context:
                return self.function(model)(*args, **kwargs)

        self._compiled: Any = None
        return call

    def function(self, model: Any) -> Any:
        """What is called."""
        return model

    def outputs(self, result: Any) -> list[np.ndarray]:
        """Flattened as torch flattens them."""
        import torch
        from torch.utils._pytree import tree_leaves

        return [t.float().numpy() for t in tree_leaves(result) if isinstance(t, torch.Tensor)]


class Inductor(Eager):
    """torch.compile, frozen; kernels autotuned where inductor has more than one."""

    def function(self, model: Any) -> Any:
        """Compiled at the first call."""
        if self._compiled is None:
            import torch
            from torch._inductor import config

            config.freezing = True
            self._compiled = torch.compile(model, options={"max_autotune": True, "freezing": True})
        return self._compiled
