"""Which layout a value's readers would like: the look-ahead of the greedy layout assignment.

hint(v) = blocked  if some reader (through pointwise regions) is a convolution or pool,  else PLAIN
"""

from __future__ import annotations

from torch import fx

from ...ir.program import Program
from .plan import PLAIN, Layout
from .target import Target

_BLOCKED_KINDS = ("conv", "pool")
_TRANSPARENT_KINDS = ("pointwise", "concat")


def preferred_layouts(program: Program, target: Target) -> dict[fx.Node, Layout]:
    """A layout for each node whose readers prefer blocked channels; nodes that are missing prefer PLAIN."""
    hints: dict[fx.Node, Layout] = {}
    blocked = f"c{target.block}"
    for node in reversed(list(program.graph.nodes)):
        if node.op not in ("call_module", "placeholder") or len(node.meta["val"].shape) not in (3, 4, 5):
            continue
        if any(_likes_blocked(user, node, program, hints) for user in node.users):
            hints[node] = blocked
    return hints


def _likes_blocked(user: fx.Node, node: fx.Node, program: Program, hints: dict[fx.Node, Layout]) -> bool:
    if user.op != "call_module":
        return False
    kind = program.regions[str(user.target)].kind
    same_shape = user.meta["val"].shape == node.meta["val"].shape
    return kind in _BLOCKED_KINDS or (
        kind in _TRANSPARENT_KINDS and (same_shape or kind == "concat") and hints.get(user, PLAIN) != PLAIN
    )
