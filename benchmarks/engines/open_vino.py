"""OpenVINO's CPU plug-in: latency hint, threads pinned, the precision said outright (its default here is bfloat16)."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..case import CALIBRATION, Case
from .base import Arrays, Loaded
from .onnx_runtime import flat

HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


class OpenVino:
    """One inference request over shared input memory."""

    def refuses(self, case: Case) -> str | None:
        """It has every precision."""
        return None

    def export(self, case: Case, folder: Path) -> dict[str, float]:
        """Convert from torch's own graph and write OpenVINO's form, weights uncompressed."""
        import openvino
        import torch

        model, args, kwargs = case.sample()
        with torch.no_grad():
            program = torch.export.export(model, args, kwargs)
        converted = openvino.convert_model(program)
        if case.precision == "int8":
            converted = quantized(case, converted)
        openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)
        return {}

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Loaded:
        """Compile for this CPU."""
        import openvino

        core = openvino.Core()
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": case.threads,
            "INFERENCE_PRECISION_HINT": HINTS[case.precision],
        }
        compiled = core.compile_model(folder / "model.xml", "CPU", config)
        request = compiled.create_infer_request()
        values = dict(enumerate(inputs))

        def outputs(result: Any) -> list[np.ndarray]:
            return [np.asarray(result[i], np.float32) for i in range(len(result))]

        return Loaded(lambda: request.infer(values, share_inputs=True, share_outputs=True), outputs)


def quantized(case: Case, model: Any) -> Any:
    """NNCF's post-training integers with what it advises: the mixed preset, and what it knows of transformers."""
    os.environ["NNCF_CI"] = "true"  # it sends nothing home then
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        model,
        nncf.Dataset([flat(call) for call in case.calibration()]),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if case.transformer else None,
        subset_size=CALIBRATION,
    )
