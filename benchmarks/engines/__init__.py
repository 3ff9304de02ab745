"""The engines, one file each: how each turns a model into the form that suits it best, and runs it."""

from __future__ import annotations

import importlib

from .base import Engine

ENGINES = {
    "planish": ("ours", "Planish"),
    "merged": ("ours", "Merged"),
    "peak": ("ours", "Peak"),
    "eager": ("pytorch", "Eager"),
    "inductor": ("pytorch", "Inductor"),
    "onnxruntime": ("onnx_runtime", "OnnxRuntime"),
    "openvino": ("open_vino", "OpenVino"),
}
"""File and class of each engine; `planish` is compared with the others, `merged` is planish, `peak` is the machine."""

TRAINING = {
    "tune": ("training", "Tune"),
    "eval": ("training", "Eval"),
    "inductor_tune": ("training", "InductorTune"),
    "inductor_own": ("training", "InductorOwn"),
    "inductor_eval": ("training", "InductorEval"),
}
"""Ways to train with batch norms in eval mode; `tune` and `inductor_tune` are planish's, beside what they replace."""

PEERS = tuple(name for name in ENGINES if name not in ("planish", "merged", "peak"))


def engine(name: str) -> Engine:
    """The engine of that name; its library is imported when it is used."""
    file, kind = {**ENGINES, **TRAINING}[name]
    made: Engine = getattr(importlib.import_module(f".{file}", __name__), kind)()
    return made
