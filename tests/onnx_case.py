"""Checks an exported model in ONNX Runtime value by value.

Each value of the integer program is computed by the reference from the codes that ONNX Runtime has for its operands,
and compared with ONNX Runtime's own: at most one code apart. So no error of one layer excuses one of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, fx

from planish.backends.onnx.export import model_of
from planish.ir.interpret import run_graph
from planish.ir.program import Program

CODES = (torch.uint8, torch.int8, torch.int16)


def run_onnx(model: onnx.ModelProto, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """All outputs of a model by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if "vnni" not in Path("/proc/cpuinfo").read_text():  # there sums of u8 and s8 saturate, those of two u8 do not
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    held = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    results = session.run(None, held)
    return {out.name: torch.from_numpy(np.asarray(y)) for out, y in zip(session.get_outputs(), results, strict=True)}


def assert_within_one_code(program: Program, inputs: Sequence[Tensor]) -> tuple[int, int, float]:
    """(values compared, codes that differ, share of these) of a run of the exported model."""
    model = model_of(program)
    made = {node.name for node in program.graph.nodes if node.op == "call_function"}
    inner = [name for node in model.graph.node for name in node.output if name in made and not _returned(model, name)]
    known = {info.name: info for info in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(known[name] for name in inner)
    found = run_onnx(model, inputs)
    counted = differing = total = 0

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal counted, differing, total
        exact = node.target(*args, **kwargs)
        if node.name not in inner:
            return exact
        got = found[node.name]
        assert (got.shape, got.dtype) == (exact.shape, exact.dtype), node.name
        off = (got.to(torch.int64) - exact.to(torch.int64)).abs()
        assert int(off.max()) <= (exact.dtype in CODES), f"{node.format_node()} is off by {int(off.max())}"
        counted, differing, total = counted + 1, differing + int((off > 0).sum()), total + off.numel()
        return got

    with torch.no_grad():
        results = run_graph(program.graph, list(inputs), program.weights, call)
    for exact, spec in zip(results, model.graph.output, strict=False):
        scale = exact.double().abs().max().clamp(min=1e-12)
        assert float((found[spec.name].double() - exact.double()).abs().max() / scale) < 1e-5, spec.name
    return counted, differing, differing / max(total, 1)


def _returned(model: onnx.ModelProto, name: str) -> bool:
    return name in [info.name for info in model.graph.output]
