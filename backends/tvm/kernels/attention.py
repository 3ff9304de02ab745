"""Scaled dot-product attention in one kernel, float32 or bfloat16: scores, mask, softmax and values together.

    out[b, i] = epilogue(softmax over l: (scale q[b, i] . k[b, l] + mask[b, i, l])  @  v[b, l])

The lanes of every vector are queries. So keys and values are read one scalar at a time through whatever views they
come with, the softmax needs no horizontal operation, and only the queries and the result are ever transposed, a tile
each. A row whose scores are all -inf gives zeros, as in PyTorch; NaN scores make the row NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..epilogue import wants_plain
from ..plan import computed_dtype
from ..template import Choice, Lowered, Refused, Task, Wants, distinct
from ..views import dtype_of, shape_of
from .attention_kernel import Kernel, Sdpa
from .attention_pairs import PairedKernel, multiplies_pairs
from .linear import views_to_placeholder


def read_attention(task: Task) -> Sdpa | Refused:
    """Geometry of the region's attention, or why this template cannot take it."""
    anchor = task.region.anchor_node
    if anchor is None or anchor.target is not torch.ops.aten.scaled_dot_product_attention.default:
        return Refused("not an attention")
    args: list[Any] = [*anchor.args, *[None, 0.0, False][len(anchor.args) - 3 :]]
    q, k, v, mask, dropout, causal = args
    scale = anchor.kwargs.get("scale")
    nodes = [n for n in (q, k, v, mask) if n is not None]
    if dropout:
        return Refused("dropout")
    if any(dtype_of(n) != "float32" for n in nodes[:3]) or computed_dtype(task.output.dtype) != "float32":
        return Refused("not float32 or bfloat16")
    if mask is not None and dtype_of(mask) not in ("float32", "bool"):
        return Refused(f"a mask of {mask.meta['val'].dtype}")
    if not all(views_to_placeholder(task, n) for n in nodes):
        return Refused("an operand is computed inside the region")
    out = shape_of(anchor)
    heads = [shape_of(n)[-3] if len(shape_of(n)) > 2 else 1 for n in (q, k)]
    gqa = bool(anchor.kwargs.get("enable_gqa", False))
    factor = shape_of(q)[-1] ** -0.5 if scale is None else float(scale)  # type: ignore[arg-type]
    return Sdpa(
        q, k, v, mask, bool(causal), factor, out[:-2], out[-2], shape_of(k)[-2], shape_of(q)[-1], out[-1],
        group=heads[0] // heads[1] if gqa else 1,
    )  # fmt: skip


class Attention:
    """The template: scaled_dot_product_attention with any mask, causal or not."""

    name = "attention"

    def wants(self, task: Task) -> Wants | Refused:
        """Everything PLAIN."""
        attention = read_attention(task)
        if isinstance(attention, Refused):
            return attention
        return wants_plain(task)

    def space(self, task: Task) -> Sequence[Choice]:
        """How many keys and how many channels of the values are accumulated at once."""
        sdpa = read_attention(task)
        assert isinstance(sdpa, Sdpa)
        default = _kernel(task, sdpa)
        tiles = [_kernel(task, sdpa, limit) for limit in (default.limit, 24, 20, 12, 8) if limit <= default.most]
        pairs = ((k.key_tile, v.value_tile) for k in tiles for v in tiles)
        return distinct({"keys": keys, "values": values} for keys, values in pairs)

    def emit(self, task: Task, choice: Choice | None = None) -> Lowered:
        """Parallel over heads and tiles of queries."""
        attention = read_attention(task)
        assert isinstance(attention, Sdpa)
        kernel = _kernel(task, attention)
        if choice is not None:
            kernel.key_tile, kernel.value_tile = int(choice["keys"]), int(choice["values"])
        return kernel.lower()


def _kernel(task: Task, sdpa: Sdpa, limit: int | None = None) -> Kernel:
    """The kernel that multiplies pairs of bfloat16, or the one that multiplies in float32."""
    return (PairedKernel if multiplies_pairs(task, sdpa) else Kernel)(task, sdpa, limit)
