"""ONNX Runtime's CPU provider: all graph optimizations, its own threads, inputs and outputs bound beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..case import Case
from .base import Arrays, Loaded


class OnnxRuntime:
    """One session."""

    def refuses(self, case: Case) -> str | None:
        """Its CPU kernels are float32."""
        return "its CPU provider has no bfloat16" if case.precision == "bfloat16" else None

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Write model.onnx."""
        write_onnx(case, folder / "model.onnx")
        return {}

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Loaded:
        """A session whose buffers are bound once."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads, options.inter_op_num_threads = case.threads, 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            folder / "model.onnx", sess_options=options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        for spec, array in zip(session.get_inputs(), inputs, strict=True):
            binding.bind_cpu_input(spec.name, array)
        for spec in session.get_outputs():
            binding.bind_output(spec.name)

        def call() -> Any:
            session.run_with_iobinding(binding)
            return binding

        return Loaded(call, lambda bound: [np.asarray(array, np.float32) for array in bound.copy_outputs_to_cpu()])


def write_onnx(case: Case, path: Path) -> None:
    """The model as ONNX, weights inside."""
    import torch

    model, args, kwargs = case.sample()
    program = torch.onnx.export(model, args, kwargs=kwargs, dynamo=True, verbose=False)
    assert program is not None
    program.save(path)
