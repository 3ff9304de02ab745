"""The engines, one file each: how each turns a model into the form that suits it best, and runs it."""

from __future__ import annotations

import importlib

from .base import Engine

ENGINES = {
    "planish": ("ours", "Planish"),
    "peak": ("ours", "Peak"),
    "eager": ("pytorch", "Eager"),
    "inductor": ("pytorch", "Inductor"),
    "onnxruntime": ("onnx_runtime", "OnnxRuntime"),
    "openvino": ("open_vino", "OpenVino"),
}
"""File and class of each engine; `planish` is compared with the others, `peak` is the machine alone."""

PEERS = tuple(name for name in ENGINES if name not in ("planish", "peak"))


def engine(name: str) -> Engine:
    """The engine of that name; its library is imported when it is used."""
    file, kind = ENGINES[name]
    made: Engine = getattr(importlib.import_module(f".{file}", __name__), kind)()
    return made
