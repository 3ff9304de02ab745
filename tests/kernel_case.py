"""Runs one kernel template on one region by hand: no passes, no plan, no artifact.

check(template, fn, inputs): template(fn)(inputs) == fn(inputs), with NaN in every lane that no kernel may read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from compare import assert_close_to_reference
from torch import fx

from planish.backends.tvm.compat import tirx, tvm
from planish.backends.tvm.plan import PLAIN, Value, block_of, memory_dtype, physical_shape
from planish.backends.tvm.target import Target
from planish.backends.tvm.template import Choice, Lowered, Packed, Refused, Task, Template
from planish.ir.program import Region

HOST = Target.host(threads=2)
aten = torch.ops.aten


def make_task(
    fn: Callable[..., Any],
    inputs: Sequence[torch.Tensor],
    constants: Sequence[int] = (),
    *,
    kind: str = "other",
    anchor: Any = None,
    layouts: dict[int, str] | None = None,
    target: Target = HOST,
    external: bool = False,
    hint: str = PLAIN,
) -> Task:
    """A task for the ATen calls of `fn`; `anchor` is the op that is the region's anchor."""
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    result = fn(*(fx.Proxy(graph.placeholder(f"in{i}"), tracer) for i in range(len(inputs))))
    graph.output(result.node)
    fake = [torch.empty_like(t, device="meta") for t in inputs]
    values: dict[fx.Node, Any] = {}
    feed = iter(fake)
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = next(feed)
        elif node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
        if node.op != "output":
            node.meta["val"] = values[node]
    named = next((n.name for n in graph.nodes if n.op == "call_function" and n.target is anchor), None)
    assert anchor is None or named is not None, f"{anchor} is not called"
    region = Region("region", kind, graph, named, ("layer",))
    blocked = layouts or {}
    described = tuple(
        Value(f"v{i}", tuple(t.shape), _dtype(t), blocked.get(i, PLAIN), external and i not in constants)
        for i, t in enumerate(inputs)
    )
    made = region.result.meta["val"]
    output = Value("out", tuple(made.shape), _dtype(made), external=external)
    return Task(region, described, frozenset(constants), output, target, hint)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def in_memory(tensor: torch.Tensor) -> np.ndarray:
    """As NumPy's array; bfloat16 as its bits, of which the largest uint16 is a NaN."""
    return np.asarray((tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy())


def to_layout(array: np.ndarray, layout: str) -> np.ndarray:
    """A copy in `layout`; lanes past the channels hold NaN (or the largest integer)."""
    if layout == PLAIN:
        return array.copy(order="C")  # ascontiguousarray would make a scalar one-dimensional
    block = block_of(layout)
    blocks = -(-array.shape[1] // block)
    padded = forgotten((array.shape[0], blocks * block, *array.shape[2:]), array.dtype)
    padded[:, : array.shape[1]] = array
    split = padded.reshape(array.shape[0], blocks, block, *array.shape[2:])
    return np.ascontiguousarray(np.moveaxis(split, 2, -1))


def from_layout(array: np.ndarray, shape: tuple[int, ...], layout: str) -> np.ndarray:
    """The logical array, padding lanes dropped."""
    if layout == PLAIN:
        return array
    merged = np.moveaxis(array, -1, 2)
    return merged.reshape(shape[0], -1, *shape[2:])[:, : shape[1]]


def aligned(array: np.ndarray, offset: int = 0) -> Any:
    """A TVM tensor with a copy of `array`, `offset` bytes past a 64-byte boundary."""
    import tvm_ffi

    raw = np.empty(array.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return tvm_ffi.from_dlpack(view) if array.nbytes else tvm.runtime.tensor(array)


@dataclass
class Built:
    """A compiled kernel with the task it was made for, in the layouts the template wanted."""

    task: Task
    lowered: Lowered
    module: Any

    def run(self, inputs: Sequence[torch.Tensor]) -> Any:
        """Call the kernel; the output buffer starts as NaN, so that an element it forgets is found."""
        result = self.empty_output()
        self.module["main"](*self.arguments(inputs), result)
        array = from_layout(np.from_dlpack(result), self.task.output.shape, self.lowered.output)
        return torch.tensor(array).view(torch.bfloat16) if self.task.output.dtype == "bfloat16" else array

    def arguments(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """What the kernel is called with, but for the output; the caller's buffers lie 4 bytes off."""
        offset = 4 if any(v.external for v in self.task.inputs) else 0
        return [self._argument(a, inputs, offset) for a in self.lowered.args]

    def empty_output(self) -> Any:
        """A buffer for the result, full of NaN."""
        out = self.task.output
        dtype = np.dtype(memory_dtype(out.dtype))
        return aligned(forgotten(physical_shape(out.shape, self.lowered.output), dtype), 4 if out.external else 0)

    def _argument(self, arg: int | Packed, inputs: Sequence[torch.Tensor], offset: int) -> Any:
        if isinstance(arg, Packed):
            return derive(arg, in_memory(inputs[arg.position]), self.task.target)
        value = self.task.inputs[arg]
        return aligned(to_layout(in_memory(inputs[arg]), value.layout), offset if value.external else 0)


def forgotten(shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """What nobody has written: NaN, or the largest number."""
    return np.full(shape, np.nan if dtype.kind == "f" else 1 if dtype.kind == "b" else np.iinfo(dtype).max, dtype)


def derive(arg: Packed, weight: np.ndarray, target: Target) -> Any:
    """The argument as loading an artifact makes it of what is stored; `forgotten` where it leaves one out."""
    stored = aligned(arg.pack(weight))
    if arg.derive is None:
        return stored
    made = aligned(forgotten(arg.derive.shape, np.dtype(arg.derive.dtype)))
    tvm.compile(tvm.IRModule({"main": arg.derive.func}), target=target.tvm_target())["main"](stored, made)
    return made


def build(template: Template, task: Task, choose: Callable[[Sequence[Choice]], Choice | None] | None = None) -> Built:
    """Emit and compile what `choose` takes from the template's space, or the default.

    Inputs that come in a layout that the template does not take are converted first.
    """
    wants = template.wants(task)
    assert not isinstance(wants, Refused), wants.reason
    inputs = list(task.inputs)
    for position, layouts in wants.inputs.items():
        if position not in task.constants and inputs[position].layout not in layouts:
            old = inputs[position]
            inputs[position] = Value(old.name, old.shape, old.dtype, layouts[0], False)
    task = replace(task, inputs=tuple(inputs))
    lowered = template.emit(task, None if choose is None else choose(template.space(task)))
    assert lowered.output == wants.output
    return Built(task, lowered, tvm.compile(tvm.IRModule({"main": lowered.func}), target=task.target.tvm_target()))


def check(
    template: Template,
    fn: Callable[..., Any],
    inputs: Sequence[torch.Tensor],
    constants: Sequence[int] = (),
    **options: Any,
) -> Built:
    """Build, run and compare with torch in float64."""
    task = make_task(fn, inputs, constants, **options)
    built = build(template, task)
    actual = built.run(inputs)
    wide = [t.double() if t.is_floating_point() else t for t in inputs]
    assert_close_to_reference(actual, fn(*wide), fn(*inputs))
    return built


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Reproducible normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def loops(func: Any) -> list[tuple[str, int]]:
    """(kind, extent) of every loop of a PrimFunc: "serial", "parallel", "vectorized"; extent -1 if not constant."""
    found: list[tuple[str, int]] = []

    def visit(node: Any) -> None:
        if isinstance(node, tirx.For):
            extent = int(node.extent) if isinstance(node.extent, tirx.IntImm) else -1
            found.append((("serial", "parallel", "vectorized", "unrolled")[int(node.kind)], extent))
        for name in ("body", "block", "then_case", "else_case", "init"):
            if getattr(node, name, None) is not None:
                visit(getattr(node, name))
        for part in getattr(node, "seq", ()):
            visit(part)

    visit(func)
    return found
