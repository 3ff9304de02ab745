"""Which groups of values get other codes than uint8, from who makes and who reads them.

    second factors of products: int8, symmetric       shares of a softmax: int16 at 2^-bits
    streams of sums that norms and softmax read: int16, symmetric

A residual stream is the sum of all that was ever added to it, so it has a wider range than what a layer adds, and a
norm makes its fine steps large again: 8 bits would lose what the layer said. A norm and a sum read 16 bits as fast as
8, products do not; therefore values that a product reads stay at 8 bits. Shares are the exception: there are so many in
a row, and so small, that at 8 bits they would be the largest noise of a transformer, and few products read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import fx

from ...ir.ops import arguments, is_call
from ...ir.scales import moves, scale_groups
from ...ir.types import QuantParams
from .plan import Codes
from .rules.attention import FINE, codes_of_shares, softmax_axis

aten = torch.ops.aten
Group = tuple[fx.Node, ...]
NORMS = (aten.layer_norm.default, aten.rms_norm.default, aten.group_norm.default)
SUMS = (aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor)
WEIGHTS: Mapping[torch._ops.OpOverload, tuple[str, ...]] = {
    aten.linear.default: ("weight", "bias"),
    aten.convolution.default: ("weight", "bias"),
    **dict.fromkeys(NORMS, ("weight", "bias")),
}
"""Arguments that are no activations: constants have codes of their own there."""


def codes_by_use(graph: fx.Graph, given: Mapping[fx.Node, Codes]) -> dict[fx.Node, Codes]:
    """Codes of the groups that do not get uint8, by each of their nodes; `given` ones, of any node, come first."""
    groups = [group for group in scale_groups(graph) if any(node.op != "get_attr" for node in group)]
    readers = {group: list(_readers(group)) for group in groups}
    wide = _wide(groups, readers)
    found = dict(given)
    for group in groups:
        codes = _codes(group, readers[group], group in wide)
        if codes is not None and not any(node in given for node in group):
            found |= dict.fromkeys(group, codes)
    return found


def symmetric_bytes(least: float, most: float) -> QuantParams:
    """int8, zero at 0."""
    return QuantParams.symmetric(max(-least, most))


def symmetric_words(least: float, most: float) -> QuantParams:
    """int16, zero at 0."""
    return QuantParams.symmetric(max(-least, most), 16)


def shares(least: float, most: float) -> QuantParams:
    """int16 at 2^-15, for shares that no product reads."""
    return FINE


def _codes(group: Group, readers: list[tuple[fx.Node, fx.Node]], wide: bool) -> Codes | None:
    multiplied = [reader for reader, _ in readers if is_call(reader, aten.matmul.default)]
    made = [node for node in group if not moves(node)]
    if made and all(is_softmax(node) for node in made):
        return shares if wide else codes_of_shares
    if multiplied and all(r in multiplied and r.args[1] is n and r.args[0] is not n for r, n in readers):
        return symmetric_bytes
    return symmetric_words if wide else None


def is_softmax(node: fx.Node) -> bool:
    """Whether a call gives shares."""
    return softmax_axis(node) is not None


def _readers(group: Group) -> Iterable[tuple[fx.Node, fx.Node]]:
    """(reader, what it reads) beyond the group itself; weights are read as constants."""
    members = set(group)
    for node in group:
        for reader in node.users:
            named = WEIGHTS.get(reader.target, ())  # type: ignore[call-overload]
            as_weight = bool(named) and all(
                value is not node or name in named for name, value in arguments(reader).items()
            )
            if not (reader in members and moves(reader)) and not as_weight:
                yield reader, node


def _wide(groups: list[Group], readers: Mapping[Group, list[tuple[fx.Node, fx.Node]]]) -> set[Group]:
    """Groups that norms and softmax read, and sums that are wide themselves; nobody else but the output."""
    home = {node: group for group in groups for node in group}
    wide: set[Group] = set()
    for group in reversed(groups):
        seen = readers[group]
        fine = [r for r, _ in seen if is_call(r, *NORMS) or is_softmax(r) or (is_call(r, *SUMS) and home[r] in wide)]
        rest = [r for r, _ in seen if r not in fine]
        made = [node for node in group if not moves(node)]
        final = bool(rest) and all(is_softmax(node) or is_call(node, *NORMS, *SUMS) for node in made)
        if all(r.op == "output" for r in rest) and (fine or final):
            wide.add(group)
    return wide
