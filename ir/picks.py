"""Indexing by a number that is data: torch.export takes the number out of the tensor, which no program can hold.

select(x, dim, item(i))  ==  x[:, ..., i]        for a tensor i without dimensions, counted from the end if negative
"""

from __future__ import annotations

from typing import cast

import torch
from torch import fx
from torch.export import ExportedProgram

aten = torch.ops.aten
_ITEM = (aten.item.default, aten._local_scalar_dense.default)


def index_by_tensors(exported: ExportedProgram) -> ExportedProgram:
    """The same program, changed in place: no number is taken out of a tensor just to select by it."""
    graph = exported.graph
    found = False
    for item in [n for n in graph.nodes if n.target in _ITEM]:
        for select in [n for n in item.users if n.target is aten.select.int and n.args[2] is item]:
            x, dim, _ = cast(tuple[fx.Node, int, fx.Node], select.args)
            before = [None] * (dim % x.meta["val"].dim())
            select.target, select.args = aten.index.Tensor, (x, [*before, item.args[0]])
            found = True
        if not item.users:
            graph.erase_node(item)
    if found:
        exported.graph_module.recompile()
        exported._guards_code.clear()  # of the number; under Dynamo they name what only its frames have
    return exported
