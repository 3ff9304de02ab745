"""Moves of elements and choices between them: the same in ONNX on codes, whatever they mean.

    reshape, permute, slice, expand, cat, pad, gather, maxima: one operator        any other move: Gather of places

A move of one value is known for all time when the graph is made. So one that ONNX has no operator for is tried out on
the numbers of the elements' places, and becomes a Gather of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ...ir.ops import arguments, is_call
from ...ir.scales import moves
from .products import batched, windows
from .values import Graph, Inexpressible, scale_of, shape_of
from .writer import Stored, Value

aten = torch.ops.aten
VIEWS = (aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dims, aten.view.default, aten.flatten.using_ints)
FEW = {
    "Pad": (torch.int16,),
    "ReduceMax": (torch.int16,),
    "ReduceMin": (torch.int16,),
    "Where": (torch.int16, torch.int8),
    "Max": (torch.int16, torch.int8, torch.uint8),
    "Min": (torch.int16, torch.int8, torch.uint8),
    "Clip": (torch.int16,),
}
"""Dtypes that engines lack an operator for: these take int32 instead."""


def view(graph: Graph, node: fx.Node) -> Value:
    """Another shape."""
    return _of(graph, node, "Reshape", node.args[0], graph.writer.integers(*shape_of(node)))


def permute(graph: Graph, node: fx.Node) -> Value:
    """Dimensions in another order."""
    dims: Any = node.args[1]
    rank = len(shape_of(node))
    return _of(graph, node, "Transpose", node.args[0], perm=[dim % rank for dim in dims])


def expand(graph: Graph, node: fx.Node) -> Value:
    """The same elements again and again."""
    return _of(graph, node, "Expand", node.args[0], graph.writer.integers(*shape_of(node)))


def cut(graph: Graph, node: fx.Node) -> Value:
    """Every n-th element of a part."""
    given, w = arguments(node), graph.writer
    start, end, dim = given["start"] or 0, given["end"], given["dim"]
    end = shape_of(given["self"])[dim] if end is None else min(end, shape_of(given["self"])[dim])
    held = [w.integers(start), w.integers(end), w.integers(dim), w.integers(given["step"])]
    return _of(graph, node, "Slice", given["self"], *held)


def cat(graph: Graph, node: fx.Node) -> Value:
    """Values one after the other."""
    given = arguments(node)
    parts = [graph.stored(part) for part in given["tensors"]]
    name = graph.writer.op("Concat", [p.name for p in parts], graph.writer.unique(node.name), axis=given["dim"])
    return Stored(name, parts[0].dtype, scale_of(node))


def pad(graph: Graph, node: fx.Node) -> Value:
    """With a code, or a number."""
    given, rank = arguments(node), len(shape_of(node))
    pads = list(given["pad"])
    before, after = [0] * rank, [0] * rank
    for place in range(len(pads) // 2):
        before[rank - 1 - place], after[rank - 1 - place] = pads[2 * place], pads[2 * place + 1]
    source = graph.stored(given["self"])
    dtype = _working("Pad", source.dtype)
    fill = graph.writer.tensor(torch.tensor(given["value"], dtype=dtype), "fill")
    return _of(graph, node, "Pad", given["self"], graph.writer.integers(*before, *after), fill)


def extreme(graph: Graph, node: fx.Node) -> Value:
    """The largest or the smallest along dimensions."""
    given = arguments(node)
    dims = [given["dim"]] if isinstance(given["dim"], int) else list(given["dim"])
    axes = dims or list(range(len(shape_of(given["self"]))))
    kind = "ReduceMax" if is_call(node, aten.amax.default) else "ReduceMin"
    return _of(graph, node, kind, given["self"], graph.writer.integers(*axes), keepdims=int(given["keepdim"]))


def between(graph: Graph, node: fx.Node) -> Value:
    """Bounds that the dtype has."""
    given = arguments(node)
    dtype = _working("Clip", graph.stored(given["self"]).dtype)
    ends = [
        "" if end is None else graph.writer.tensor(torch.tensor(end, dtype=dtype), "bound")
        for end in (given["min"], given["max"])
    ]
    return _of(graph, node, "Clip", given["self"], *ends)


def larger(graph: Graph, node: fx.Node) -> Value:
    """The larger or the smaller of two."""
    kind = "Max" if is_call(node, aten.maximum.default) else "Min"
    return _of(graph, node, kind, node.args[0], node.args[1])


def where(graph: Graph, node: fx.Node) -> Value:
    """One of two, as a truth value says."""
    test, above, below = (graph.stored(source) for source in node.args)  # type: ignore[arg-type]
    dtype = _working("Where", above.dtype)
    parts = [_as(graph, part, dtype) for part in (above, below)]
    return _back(graph, node, graph.writer.op("Where", [test.name, *parts]), dtype, above.dtype)


def masked_fill(graph: Graph, node: fx.Node) -> Value:
    """A code where a truth value says so."""
    given = arguments(node)
    source = graph.stored(given["self"])
    dtype = _working("Where", source.dtype)
    fill = graph.writer.tensor(torch.tensor(given["value"], dtype=dtype), "fill")
    held = [graph.stored(given["mask"]).name, fill, _as(graph, source, dtype)]
    return _back(graph, node, graph.writer.op("Where", held), dtype, source.dtype)


def rows_of_table(graph: Graph, node: fx.Node) -> Value:
    """embedding(table, places)."""
    return _of(graph, node, "Gather", node.args[0], node.args[1], axis=0)


def index_select(graph: Graph, node: fx.Node) -> Value:
    """Places of one dimension."""
    return _of(graph, node, "Gather", node.args[0], node.args[2], axis=node.args[1])


def largest_place(graph: Graph, node: fx.Node) -> Value:
    """argmax and argmin: of equal codes the first."""
    given = arguments(node)
    kind = "ArgMax" if is_call(node, aten.argmax.default) else "ArgMin"
    source = graph.stored(given["self"])
    name = source.name if source.dtype.is_floating_point else graph.writer.cast(source.name, torch.int32)
    dim, keep = given["dim"], int(given["keepdim"])
    if dim is None:
        name, dim, keep = graph.writer.op("Reshape", [name, graph.writer.integers(-1)]), 0, 0
    made = graph.writer.op(kind, [name], axis=int(dim), keepdims=keep)
    return Stored(graph.writer.op("Reshape", [made, graph.writer.integers(*shape_of(node))]), torch.int64)


def max_pool(graph: Graph, node: fx.Node) -> Value:
    """The largest code of each window; wider codes as floats, which hold them exactly."""
    given = arguments(node)
    source = graph.stored(given["x"])
    dtype = source.dtype if source.dtype.itemsize == 1 else torch.float32
    channel = len(shape_of(node)) - len(given["kernel"]) - 1
    made = batched(graph, channel, [_as(graph, source, dtype)], "MaxPool", windows(node, given))
    return _back(graph, node, made, dtype, source.dtype)


def by_places(graph: Graph, node: fx.Node) -> Value:
    """Any other move of one value, as a Gather of the places that its elements come from."""
    sources = node.all_input_nodes
    if len(sources) != 1 or not moves(node) or not isinstance(node.target, torch._ops.OpOverload):
        raise Inexpressible("planish writes it in no ONNX operator")
    extents = shape_of(sources[0])
    count = int(torch.Size(extents).numel())
    numbers = torch.arange(count, dtype=torch.float64).reshape(extents)
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda _: numbers)
    with torch.no_grad():
        places: Tensor = node.target(*args, **kwargs)
    flat = graph.writer.op("Reshape", [graph.stored(sources[0]).name, graph.writer.integers(-1)])
    made = graph.writer.op("Gather", [flat, graph.writer.tensor(places.to(torch.int64), "places")], axis=0)
    return Stored(made, graph.stored(sources[0]).dtype, scale_of(node))


def _of(graph: Graph, node: fx.Node, kind: str, source: Any, *rest: Any, **attributes: Any) -> Stored:
    """One operator of a value; the rest are tensors' names, or values of the program."""
    held = graph.stored(source)
    dtype = _working(kind, held.dtype)
    others = []
    for other in rest:
        value = graph.stored(other) if isinstance(other, fx.Node) else None
        others.append(other if value is None else value.name if kind == "Gather" else _as(graph, value, dtype))
    made = graph.writer.op(kind, [_as(graph, held, dtype), *others], **attributes)
    return _back(graph, node, made, dtype, held.dtype)


def _working(kind: str, dtype: torch.dtype) -> torch.dtype:
    return torch.int32 if dtype in FEW.get(kind, ()) else dtype


def _as(graph: Graph, value: Stored, dtype: torch.dtype) -> str:
    return value.name if value.dtype is dtype else graph.writer.cast(value.name, dtype)


def _back(graph: Graph, node: fx.Node, name: str, dtype: torch.dtype, wanted: torch.dtype) -> Stored:
    scale = 1.0 if wanted.is_floating_point or wanted is torch.bool else scale_of(node)
    return Stored(name if dtype is wanted else graph.writer.cast(name, wanted), wanted, scale)


MOVES: Mapping[Any, Callable[[Graph, fx.Node], Value]] = {
    **dict.fromkeys(VIEWS, view),
    aten.permute.default: permute,
    aten.expand.default: expand,
    aten.slice.Tensor: cut,
    aten.cat.default: cat,
    aten.constant_pad_nd.default: pad,
    aten.amax.default: extreme,
    aten.amin.default: extreme,
    aten.clamp.default: between,
    aten.maximum.default: larger,
    aten.minimum.default: larger,
    aten.where.self: where,
    aten.masked_fill.Scalar: masked_fill,
    aten.embedding.default: rows_of_table,
    aten.index_select.default: index_select,
    aten.argmax.default: largest_place,
    aten.argmin.default: largest_place,
}
"""Operators of ATen that integers know, too."""
