"""ConvBN Tune mode: an eval-mode batch norm becomes part of its convolution's weights, in every training step anew.

    bn(conv(x, W, b)) = conv(x, c W, beta + c (b - mean)),     c = gamma / sqrt(var + eps)

The parameters stay W, b, gamma and beta, and their gradients are those of the two ops; but the convolution's output
is not kept for the backward pass, only x and a tensor of the size of W, and nothing of the size of an image is
computed for the norm (You et al., Efficient ConvBN Blocks for Transfer Learning and Beyond, arXiv 2305.11624).

Works on the graphs that Dynamo makes of a module: torch's functions, with parameters as inputs. A graph holds for
the modes that the norms had when it was made; Dynamo guards them and makes another one when they change.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...ir.origins import origin
from ...ir.report import PassReport, Site

aten = torch.ops.aten

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_LINEAR = ("input", "weight", "bias")
_NORM = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")
_F_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


@dataclass(frozen=True)
class _Linear:
    """A function that is linear in its weight: `rank` of its output, and where the weight's output channels are."""

    names: tuple[str, ...]
    rank: int
    transposed: bool = False


_PRODUCERS: Mapping[Any, _Linear] = {
    **{f: _Linear(_CONV, n + 2) for n, f in enumerate((torch.conv1d, torch.conv2d, torch.conv3d), start=1)},
    **{
        f: _Linear(_TRANSPOSED, n + 2, transposed=True)
        for n, f in enumerate((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), start=1)
    },
    **{f: _Linear(_CONV, n + 2) for n, f in enumerate((aten.conv1d, aten.conv2d, aten.conv3d), start=1)},
    aten.conv_transpose1d: _Linear(_TRANSPOSED, 3, transposed=True),
    aten.conv_transpose2d: _Linear(_TRANSPOSED, 4, transposed=True),
    aten.conv_transpose3d: _Linear(_TRANSPOSED, 5, transposed=True),
    torch.nn.functional.linear: _Linear(_LINEAR, 2),
    aten.linear: _Linear(_LINEAR, 2),
}

_NORMS: Mapping[Any, tuple[str, ...]] = {
    torch.nn.functional.batch_norm: _F_NORM,
    torch.batch_norm: _NORM,
    aten.batch_norm: _NORM,
}

_DEFAULTS: Mapping[str, Any] = {
    "weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5, "groups": 1,
}  # fmt: skip

_IN_PLACE: tuple[Any, ...] = (
    operator.setitem, operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow, operator.imatmul,
)  # fmt: skip


def fold_weights(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    groups: int | None,
) -> tuple[Tensor, Tensor]:
    """The weight and bias of conv then norm, differentiable in all of weight, bias, gamma and beta.

    `weight` is [out, in / groups, *kernel]; for transposed convolutions [in, out / groups, *kernel], with their
    `groups`. The norm's tensors are [out].
    """
    scale = torch.rsqrt(var + eps)
    if gamma is not None:
        scale = scale * gamma
    shift = -mean if bias is None else bias - mean
    shift = shift * scale
    if beta is not None:
        shift = shift + beta
    ones = [1] * (weight.dim() - 2)
    if groups is None:
        return weight * scale.reshape(-1, 1, *ones), shift
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return (split * scale.reshape(groups, 1, -1, *ones)).reshape(weight.shape), shift


def tune_graph(gm: fx.GraphModule) -> PassReport:
    """Fold every eval-mode batch norm of a Dynamo graph that follows a convolution or linear layer, in place."""
    before = len(gm.graph.nodes)
    applied: list[Site] = []
    refused: list[Site] = []
    for norm in list(gm.graph.nodes):
        found = _candidate(norm)
        if found is None:
            continue
        conv, kind = found
        reason = _refusal(norm, conv, kind)
        (refused if reason else applied).append(_site(norm, conv, reason))
        if reason is None:
            _fold(gm.graph, norm, conv, kind)
    gm.recompile()
    return PassReport("tune_mode", tuple(applied), tuple(refused), before, len(gm.graph.nodes))


def _key(node: object) -> Any:
    """What is called: torch's function, or the packet of an ATen overload."""
    target = node.target if isinstance(node, fx.Node) and node.op == "call_function" else None
    return getattr(target, "overloadpacket", target)


def _candidate(norm: fx.Node) -> tuple[fx.Node, _Linear] | None:
    """The convolution before an eval-mode batch norm with statistics; a norm in train mode keeps its own."""
    names = _NORMS.get(_key(norm))
    if names is None:
        return None
    given = _bind(norm, names)
    if given["training"] is not False or given.get("running_mean") is None:
        return None
    conv = given["input"]
    kind = _PRODUCERS.get(_key(conv))
    return None if kind is None else (conv, kind)


def _bind(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments by name, whether they were given by position or by keyword."""
    return {**_DEFAULTS, **dict(zip(names, node.args, strict=False)), **node.kwargs}


def _refusal(norm: fx.Node, conv: fx.Node, kind: _Linear) -> str | None:
    """Why the two cannot be one, or None."""
    if len(conv.users) > 1:
        return f"the output of {conv.name} has other users"
    result, given, stats = _value(conv), _bind(conv, kind.names), _bind(norm, _NORMS[_key(norm)])
    weight, var = _value(given["weight"]), _value(stats["running_var"])
    if result is None or weight is None or var is None:
        return "its shapes are not known"
    if result.dim() != kind.rank:
        what = "positions, not features" if kind.names is _LINEAR else "rows of an image without a batch"
        return f"the norm of {result.dim()}-D values scales {what}"
    if weight.dtype != var.dtype:
        return f"{weight.dtype} weights would take in {var.dtype} statistics, and lose their precision"
    return _between(conv, norm)


def _between(conv: fx.Node, norm: fx.Node) -> str | None:
    """What keeps the convolution from moving to the norm's place: writes, or a change of state."""
    node = conv.next
    while node is not norm:
        if _value(node) is None and not isinstance(node.meta.get("example_value"), (tuple, list, int, torch.SymInt)):
            return f"{node.name} ({_said(node)}) between them may change what is computed"
        if _writes(node):
            return f"{node.name} ({_said(node)}) between them writes in place"
        node = node.next
    return None


def _writes(node: fx.Node) -> bool:
    if node.target in _IN_PLACE or "out" in node.kwargs or node.kwargs.get("inplace") or _positional_inplace(node):
        return True
    name = _said(node)
    return name.endswith("_") and not name.endswith("__")


def _positional_inplace(node: fx.Node) -> bool:
    """F.relu(x, True) and its like."""
    return getattr(node.target, "__module__", "") == "torch.nn.functional" and True in node.args


def _said(node: fx.Node) -> str:
    target = node.target
    return target if isinstance(target, str) else str(getattr(target, "__name__", target)).split(".")[0]


def _value(node: object) -> Tensor | None:
    value = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def _fold(graph: fx.Graph, norm: fx.Node, conv: fx.Node, kind: _Linear) -> None:
    """Convolve at the norm's place, by the folded weight."""
    given, stats = _bind(conv, kind.names), _bind(norm, _NORMS[_key(norm)])
    groups = given["groups"] if kind.transposed else None
    names: list[Any] = [given["weight"], given["bias"]]
    names += [stats[name] for name in ("running_mean", "running_var", "weight", "bias", "eps")]
    target: Callable[..., Any] = conv.target  # type: ignore[assignment]
    with graph.inserting_before(norm):
        both = graph.call_function(fold_weights, (*names, groups))
        weight = graph.call_function(operator.getitem, (both, 0))
        bias = graph.call_function(operator.getitem, (both, 1))
        rest = {k: v for k, v in zip(kind.names, conv.args, strict=False)} | dict(conv.kwargs)
        rest.pop("weight", None), rest.pop("bias", None)
        x = rest.pop("input")
        fused = graph.call_function(target, (x, weight, bias), rest)
    weight.meta["example_value"], bias.meta["example_value"] = _value(given["weight"]), _value(stats["running_var"])
    both.meta["example_value"] = (weight.meta["example_value"], bias.meta["example_value"])
    fused.meta = {**norm.meta}
    norm.replace_all_uses_with(fused)
    graph.erase_node(norm)
    graph.erase_node(conv)


def _site(norm: fx.Node, conv: fx.Node, reason: str | None) -> Site:
    layers = tuple(dict.fromkeys(name for node in (conv, norm) if (name := origin(node).layer)))
    return Site("fold_batch_norm_each_step", norm.name, _said(norm), layers, reason)
