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
        """It has both floating forms."""
        return "eager computes no integers" if case.precision == "int8" else None

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

    def refuses(self, case: Case) -> str | None:
        """Integers through PT2E."""
        return None

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Integers are made beforehand."""
        if case.precision == "int8":
            quantize_pt2e(case, folder / "model.pt2")
        return {}

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Loaded:
        """In integers it is the saved graph that is compiled."""
        if case.precision != "int8":
            return super().load(case, folder, inputs)
        import torch
        import torchao.quantization.pt2e  # noqa: F401  (defines operators of the saved graph)
        from torch.utils._pytree import tree_unflatten

        torch.set_num_threads(case.threads)
        program = torch.export.load(folder / "model.pt2")
        function = self.prepared(program.module())
        assert program.call_spec.in_spec is not None
        args, kwargs = tree_unflatten([torch.from_numpy(array) for array in inputs], program.call_spec.in_spec)

        def call() -> Any:
            with torch.inference_mode():
                return function(*args, **kwargs)

        return Loaded(call, arrays)

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


def quantize_pt2e(case: Case, path: Path) -> None:
    """The graph with inductor's own choice of what becomes integers, calibrated and saved."""
    import torch
    import torchao.quantization.pt2e  # noqa: F401  (defines operators)
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    model, args, kwargs = case.sample()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        graph = torch.export.export(model, args, kwargs, strict=True).module()  # else it mistakes shared modules
        prepared = prepare_pt2e(graph, quantizer)
        for some_args, some_kwargs in case.calibration():
            prepared(*some_args, **some_kwargs)
        torch.export.save(torch.export.export(convert_pt2e(prepared), args, kwargs), path)
