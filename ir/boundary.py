"""Does a rewrite keep the numbers?  max|after - before| <= tolerance * max|before|, in float64, at its boundary.

The values at the boundary come from running the whole program once, in float64, on seeded random inputs: every
relation between neighbouring values (non-negative after a ReLU, indices in range...) holds, so a rule that relies on
one is not blamed for it. New nodes are run on the same values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import RewriteMismatch
from .program import Program, Region
from .report import Site

WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


class BoundaryCheck:
    """Keeps the float64 value of every node of a graph that is being rewritten."""

    def __init__(self, program: Program, seed: int = 0) -> None:
        """Run `program` on random inputs."""
        generator = torch.Generator().manual_seed(seed)
        self.values: dict[fx.Node, Any] = {}
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = _random(node.meta["val"], generator)
            elif node.op != "output":
                self._run(node, program)

    def compare(
        self, site: Site, program: Program, created: Iterable[fx.Node], olds: Sequence[fx.Node], news: Sequence[fx.Node]
    ) -> float:
        """Run the new nodes; returns the largest relative error, raises `RewriteMismatch` when it is too large."""
        tolerance = 1e-9
        for node in created:
            self._run(node, program)
            if node.op == "get_attr":  # a weight was rounded to its dtype
                tolerance = max(tolerance, 64 * _eps(program.weights[node.target]))  # type: ignore[index]
        # an eps left out, or a comparison at the edge, may depend on the dtype that the model computes in
        tolerance = max(tolerance, *(8 * _eps(node.meta["val"]) for node in olds))
        error = max(_error(self.values[old], self.values[new]) for old, new in zip(olds, news, strict=True))
        if not error <= tolerance:
            layers = ", ".join(site.layers) or "top level"
            raise RewriteMismatch(
                f"rule {site.rule} at {site.node} ({site.op}, {layers}) changes the numbers: "
                f"relative error {error:.3g}, allowed {tolerance:.3g}",
                "Leave the pass out, or mend the rule.",
            )
        return error

    def forget(self, nodes: Iterable[fx.Node]) -> None:
        """Free the values of erased nodes."""
        for node in nodes:
            self.values.pop(node, None)

    def _run(self, node: fx.Node, program: Program) -> None:
        if node.op == "get_attr":
            self.values[node] = widen(program.weights[node.target])  # type: ignore[index]
            return
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.values.__getitem__)
        target = program.regions[node.target] if node.op == "call_module" else node.target  # type: ignore[index]
        self.values[node] = run_wide(target, args, kwargs)


def run_wide(target: Any, args: Any, kwargs: Any) -> Any:
    """Run an op (or a region, op by op) in float64: narrower dtypes in its arguments and result are widened."""
    if isinstance(target, Region):
        env: dict[fx.Node, Any] = dict(zip(target.placeholders, args, strict=True))
        for node in target.body.nodes:
            if node.op == "call_function":
                inner_args, inner_kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
                env[node] = run_wide(node.target, inner_args, inner_kwargs)
        return env[target.result]
    args, kwargs = tree_map(lambda x: WIDER.get(x, x) if isinstance(x, torch.dtype) else x, (args, kwargs))
    with torch.no_grad():
        return tree_map(widen, target(*args, **kwargs))


def widen(value: Any) -> Any:
    """float64 for every narrower float tensor, everything else as it is."""
    if isinstance(value, torch.Tensor) and value.dtype in WIDER:
        return value.detach().to(WIDER[value.dtype])
    return value


def _random(value: Any, generator: torch.Generator) -> Any:
    """A random value like a fake one: normal floats, 0 or 1 for integers (valid for every index with two rows)."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype.is_floating_point or value.dtype.is_complex:
        return torch.randn(value.shape, generator=generator, dtype=WIDER.get(value.dtype, value.dtype))
    return torch.randint(0, 2, value.shape, generator=generator).to(value.dtype)


def _eps(value: Any) -> float:
    """The rounding error of a float tensor's dtype, 0 for anything else."""
    floating = isinstance(value, torch.Tensor) and value.dtype.is_floating_point
    return float(torch.finfo(value.dtype).eps) if floating else 0.0


def _error(before: Any, after: Any) -> float:
    """max|after - before| / max|before| over all tensors; non-finite elements must agree."""
    worst = 0.0
    for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
        if not isinstance(old, torch.Tensor) or not old.is_floating_point():
            same = torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new
            worst = max(worst, 0.0 if same else float("inf"))
            continue
        finite = old.isfinite()
        same_kind = torch.equal(finite, new.isfinite())
        if not same_kind or not torch.equal(old[~finite].nan_to_num(), new[~finite].nan_to_num()):
            return float("inf")
        if finite.any():
            gap = (new[finite] - old[finite]).abs().max().item()
            worst = max(worst, gap / max(old[finite].abs().max().item(), 1e-30) if gap else 0.0)
    return worst
