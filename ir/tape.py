"""A tape of what becomes of weights: the operators that passes ran on them, to be run again on other values.

    tape, program' = recorded(program, passes)        tape.play(program.weights) == program'.weights, differentiable

Passes compute weights from weights (a batch norm goes into a convolution) and decide by their values. The tape keeps
the computation and not the decisions, so it is recorded from weights in general position: none is 0, 1 or equal to
another, so that nothing is left out or merged because of a value that training would change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .program import Program


@dataclass(frozen=True)
class _Value:
    """A tensor on the tape; values in one storage alias each other."""

    number: int
    storage: int


@dataclass(frozen=True)
class _Step:
    """One operator with values in place of tensors, and what it gives."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[_Value | None, ...]

    @property
    def reads(self) -> list[_Value]:
        """Values among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, _Value)]


@dataclass(frozen=True)
class Tape:
    """Steps from the weights of one program to those of another."""

    given: Mapping[str, _Value]
    made: Mapping[str, _Value]
    constants: Mapping[_Value, Tensor]
    steps: tuple[_Step, ...]
    lifted: frozenset[str] = frozenset()
    """Trained weights that became Python numbers of the graph: what is played does not follow them."""

    def play(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The second program's weights; gradients reach what they are made of."""
        env = {value: constant.clone() for value, constant in self.constants.items()}
        env |= {value: weights[name] for name, value in self.given.items()}
        for step in self.steps:
            args, kwargs = tree_map_only(_Value, env.__getitem__, (step.args, step.kwargs))
            results = tree_leaves(step.op(*args, **kwargs))
            env |= {value: result for value, result in zip(step.results, results, strict=True) if value is not None}
        return {name: env[value] for name, value in self.made.items()}

    @property
    def reached(self) -> frozenset[str]:
        """Names of the given weights that the made ones depend on."""
        read = _read(self.steps) | set(self.made.values())
        return frozenset(name for name, value in self.given.items() if value in read)


def recorded(program: Program, trained: frozenset[str], passes: Callable[[Program], Program]) -> tuple[Tape, Program]:
    """Run passes over the program, and how its weights became those of the result."""
    recorder = _Recorder()
    given = {name: recorder.value(tensor) for name, tensor in program.weights.items()}
    with recorder:
        result = passes(program)
    made = {name: recorder.value(tensor) for name, tensor in result.weights.items()}
    steps = _needed(recorder.steps, set(made.values()))
    read = _read(steps) | set(made.values())
    constants = {value: tensor for value, tensor in recorder.constants.items() if value in read}
    constants = {value: tensor for value, tensor in constants.items() if value not in set(given.values())}
    leaves = (leaf for node in result.graph.nodes for leaf in tree_leaves((node.args, node.kwargs)))
    told = {leaf for leaf in leaves if isinstance(leaf, float)}
    found = {value for value, number in recorder.numbers.items() if number and number in told}
    numbers = _read(_needed(recorder.steps, found)) | found
    single = _read(_needed(recorder.steps, set(recorder.numbers))) | set(recorder.numbers)
    lifted = frozenset(
        name for name in trained if given[name] in (single if not program.weights[name].dim() else numbers)
    )
    return Tape(given, made, constants, steps, lifted), result


def in_general_position(
    weights: Mapping[str, Tensor], trained: frozenset[str], both_signs: bool = True
) -> dict[str, Tensor]:
    """The trained weights moved a little and apart, the first number of each in the other sign; others as they are."""
    numbers = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        noise = torch.rand(tensor.shape, generator=numbers, dtype=torch.float64) + 0.5
        made = tensor.detach() + noise * (tensor.detach().abs() * 2.0**-7 + 2.0**-10)
        if both_signs and made.numel() > 1:
            made.view(-1)[0] *= -1
        return made.to(tensor.dtype)

    return {name: moved(tensor) if name in trained else tensor for name, tensor in weights.items()}


def _read(steps: Iterable[_Step]) -> set[_Value]:
    return {value for step in steps for value in step.reads}


def _needed(steps: list[_Step], wanted: set[_Value]) -> tuple[_Step, ...]:
    """Steps that some values depend on, also by writing where they lie."""
    values, storages = set(wanted), {value.storage for value in wanted}
    kept: list[_Step] = []
    for step in reversed(steps):
        makes = any(value in values for value in step.results)
        if makes or (_writes(step.op) and any(value.storage in storages for value in step.reads)):
            kept.append(step)
            values |= set(step.reads)
            storages |= {value.storage for value in step.reads}
    return tuple(reversed(kept))


def _writes(op: Any) -> bool:
    return bool(op._schema.is_mutable)


class _Recorder(TorchDispatchMode):
    """Writes down every operator on real tensors. Tensors are known by where their elements lie."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[_Step] = []
        self.constants: dict[_Value, Tensor] = {}
        self.numbers: dict[_Value, float] = {}
        self._known: dict[int, tuple[StorageWeakRef, int, dict[Any, _Value]]] = {}
        self._count = 0

    def value(self, tensor: Tensor, new: bool = False) -> _Value:
        """The tensor's value; one that no step made is a constant."""
        storage = StorageWeakRef(tensor.untyped_storage())
        held = self._known.get(storage.cdata)
        if held is None or held[0].expired():
            self._count += 1
            held = self._known[storage.cdata] = (storage, self._count, {})
        place = (tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.is_neg())
        if place not in held[2]:
            self._count += 1
            held[2][place] = _Value(self._count, held[1])
            if not new:
                self.constants[held[2][place]] = tensor.detach()
        return held[2][place]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run it and write it down."""
        kwargs = kwargs or {}
        if any(_is_fake(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        own_args, own_kwargs = tree_map_only(Tensor, self.value, (args, kwargs))
        result = func(*args, **kwargs)
        leaves = tree_leaves(result)
        if isinstance(result, float):
            self.numbers |= {leaf: result for leaf in tree_leaves(own_args) if isinstance(leaf, _Value)}
        if any(_is_fake(leaf) for leaf in leaves) or not any(isinstance(leaf, Tensor) for leaf in leaves):
            return result
        results = tuple(self.value(leaf, new=True) if isinstance(leaf, Tensor) else None for leaf in leaves)
        step = _Step(func, own_args, own_kwargs, results)
        if _writes(func) or not all(value in step.reads for value in results):  # else the same elements again
            self.steps.append(step)
        return result


def _is_fake(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and (isinstance(leaf, FakeTensor) or leaf.device.type == "meta")
