"""The float64 reference interpreter: what a Program means when nothing rounds.

    reference(program, inputs) == program(inputs)  over the reals
    in_bfloat16(program, inputs) == program(inputs)  with every value rounded to bfloat16

Floating weights and inputs are widened to float64, and so is every dtype that an operator names on the way
(casts, constants, reductions with a dtype). `reference_model` does the same to an nn.Module without capture,
so that capture itself can be checked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .program import Program

_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
_NARROW = {torch.float32: torch.bfloat16}
_SINGLE = {torch.bfloat16: torch.float32}

Dtypes = Mapping[torch.dtype, torch.dtype]
"""Which dtype stands for which."""


def eager(program: Program, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Run op by op in the program's own dtypes; flat inputs in, flat outputs out."""
    with torch.no_grad():
        return _run(program, list(inputs), program.weights)


def reference(program: Program, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Run op by op in float64 where the program says float; flat inputs in, flat outputs out."""
    with widened(), torch.no_grad():
        weights = {name: widen(weight) for name, weight in program.weights.items()}
        return _run(program, [widen(x) for x in inputs], weights)


def in_bfloat16(program: Program, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Run op by op in bfloat16 where the program says float32, as `model.bfloat16()` would; flat in, flat out."""
    with _dtypes(_NARROW), torch.no_grad():
        weights = {name: _recast(weight, _NARROW) for name, weight in program.weights.items()}
        return _run(program, [_recast(x, _NARROW) for x in inputs], weights)


def reference_model(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Any:
    """Run a copy of the model in float64; nested outputs."""
    with widened(), torch.no_grad():
        wide = _deepcopy(model).double()
        wide_args, wide_kwargs = pytree.tree_map(widen, (tuple(args), dict(kwargs or {})))
        return wide(*wide_args, **wide_kwargs)


def widen(value: Any) -> Any:
    """A floating tensor in float64; anything else as it is."""
    return _recast(value, _WIDE)


def widened() -> AbstractContextManager[None]:
    """Within, every floating dtype that is named or defaulted to is float64."""
    return _dtypes(_WIDE)


def _recast(value: Any, dtypes: Dtypes) -> Any:
    """A tensor in the dtype that stands for its own."""
    if isinstance(value, torch.Tensor) and value.dtype in dtypes:
        return value.detach().to(dtypes[value.dtype])
    return value


@contextmanager
def _dtypes(dtypes: Dtypes) -> Iterator[None]:
    """Within, every dtype that is named or defaulted to is the one that stands for it."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtypes.get(default, default))
    try:
        with _Recast(dtypes):
            yield
    finally:
        torch.set_default_dtype(default)


class _Recast(TorchDispatchMode):
    """Replaces dtypes among the arguments of every operator."""

    def __init__(self, dtypes: Dtypes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtypes = dtypes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func` with the dtypes replaced; what PyTorch lacks in bfloat16 is computed in float32 and rounded."""
        args, kwargs = pytree.tree_map(self._replaced, (args, dict(kwargs or {})))
        try:
            return func(*args, **kwargs)
        except NotImplementedError:
            if self._dtypes is not _NARROW:
                raise
            args, kwargs = pytree.tree_map(lambda value: _recast(value, _SINGLE), (args, kwargs))
            return pytree.tree_map(lambda value: _recast(value, _NARROW), func(*args, **kwargs))

    def _replaced(self, value: Any) -> Any:
        return self._dtypes.get(value, value) if isinstance(value, torch.dtype) else value


def _run(program: Program, inputs: list[torch.Tensor], weights: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Run the program's graph."""

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "call_module":
            region = program.regions[str(node.target)]
            return run_graph(region.body, args, {}, call)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    result: tuple[torch.Tensor, ...] = run_graph(program.graph, inputs, weights, call)
    return result


def run_graph(
    graph: fx.Graph,
    inputs: Sequence[Any],
    weights: Mapping[str, torch.Tensor],
    call: Callable[[fx.Node, tuple[Any, ...], dict[str, Any]], Any],
) -> Any:
    """Run a graph node by node with `call` for its calls; values are dropped after their last use."""
    env: dict[fx.Node, Any] = {}
    left = {node: len(node.users) for node in graph.nodes}
    rest = iter(inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            env[node] = next(rest)
        elif node.op == "get_attr":
            env[node] = weights[str(node.target)]
        elif node.op == "output":
            return fx.map_arg(node.args[0], env.__getitem__)
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
            env[node] = call(node, args, kwargs)
        for source in node.all_input_nodes:
            left[source] -= 1
            if not left[source]:
                del env[source]
    raise AssertionError("a graph has an output node")


def _deepcopy(model: nn.Module) -> nn.Module:
    """A deep copy, also where modules hold computed tensors (as weight_norm hooks do)."""
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return copy.deepcopy(model, {id(value): widen(value.detach()).clone() for value in held})
