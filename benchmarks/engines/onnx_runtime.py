"""ONNX Runtime's CPU provider: all graph optimizations, its own threads, inputs and outputs bound beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..case import Call, Case
from .base import Arrays, Loaded


class OnnxRuntime:
    """One session."""

    def refuses(self, case: Case) -> str | None:
        """Its CPU kernels are of floats or integers of 8 bits."""
        return "its CPU provider has no bfloat16" if case.precision == "bfloat16" else None

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Write model.onnx."""
        if case.precision == "int8":
            write_onnx(case, folder / "float.onnx")
            quantize_static(case, folder / "float.onnx", folder / "model.onnx")
        else:
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


def quantize_static(case: Case, source: Path, path: Path) -> None:
    """QDQ by its own tool as it advises for CPUs with VNNI: u8 activations, s8 weights with a scale a channel."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [value.name for value in onnx.load(source, load_external_data=False).graph.input]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.calls = case.calibration()

        def get_next(self) -> dict[str, np.ndarray] | None:
            call = next(self.calls, None)
            return None if call is None else dict(zip(names, flat(call), strict=True))

    ready = source.with_name("ready.onnx")
    quant_pre_process(source, ready, skip_symbolic_shape=True)
    quantize(
        ready,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def flat(call: Call) -> list[np.ndarray]:
    """A call's tensors in torch's order, as arrays."""
    from torch.utils._pytree import tree_leaves

    return [leaf.numpy() for leaf in tree_leaves(call) if hasattr(leaf, "numpy")]
