"""PyTorch: eager, and torch.compile through inductor with frozen weights and autotuned kernels.

Neither has a form to save that runs without torch: the model is made again where it runs. bfloat16 is autocast.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from ..case import Case
from .base import Arrays, Loaded


class Eager:
    """The model as it is."""

    def refuses(self, case: Case) -> str | None:
        """It has every form."""
        return None

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Nothing to do."""
        return {}

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Loaded:
        """The model in memory."""
        import torch

        torch.set_num_threads(case.threads)
        model, args, kwargs = case.sample()
        function = self.prepared(model)

        def call() -> Any:
            narrow = case.precision == "bfloat16"
            context = torch.autocast("cpu", dtype=torch.bfloat16) if narrow else contextlib.nullcontext()
            with torch.inference_mode(), context:
                return function(*args, **kwargs)

        return Loaded(call, arrays)

    def prepared(self, model: Any) -> Any:
        """What is called."""
        return model


class Inductor(Eager):
    """torch.compile; constants are folded into frozen weights, the faster of inductor's kernels is chosen."""

    def prepared(self, model: Any) -> Any:
        """Compiled by the first call."""
        import torch
        from torch._inductor import config

        config.freezing = True
        return torch.compile(model, options={"max_autotune": True, "freezing": True})


def arrays(result: Any) -> list[np.ndarray]:
    """A result's tensors as arrays, in the order in which torch flattens the result."""
    import torch
    from torch.utils._pytree import tree_leaves

    return [t.float().numpy() for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
