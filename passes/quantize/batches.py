"""Calibration data: what a loader yields, as the program's inputs.

batches(loader) = flat inputs of the program's own batch size; larger batches are split along their first dimension
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, QuantizationError
from ...ir.signature import Signature, TensorSpec

Select = Callable[[Any], Any]
"""Takes what is no input, such as labels, off an item."""


def batches(signature: Signature, loader: Iterable[Any], select: Select | None = None) -> Iterator[list[Tensor]]:
    """Flat inputs, a call of the program after the other. An item is a tensor, a tuple of inputs or a dict by name."""
    number = 0
    for number, item in enumerate(loader, 1):
        yield from _split(signature, _flat(signature, select(item) if select else item, number), number)
    if not number:
        raise QuantizationError(
            "The calibration data is empty.",
            "Give a list or a loader of inputs; an iterator can be read only once.",
        )


def _flat(signature: Signature, item: Any, number: int) -> list[Tensor]:
    """An item's tensors in the order of the program's inputs."""
    args = () if isinstance(item, Mapping) else item if isinstance(item, tuple | list) else (item,)
    try:
        leaves = signature.flatten(args, item if isinstance(item, Mapping) else {})
    except InputError as error:
        raise InputError(f"Calibration batch {number}: {error.what}", f"{error.todo} `select` drops labels.") from None
    for spec, leaf in zip(signature.inputs, leaves, strict=True):
        if not isinstance(leaf, Tensor):
            _refuse(number, spec, f"is a {type(leaf).__name__}, not a tensor")
        if str(leaf.dtype).removeprefix("torch.") != spec.dtype:
            _refuse(number, spec, f"has the dtype {str(leaf.dtype).removeprefix('torch.')}")
    return leaves


def _split(signature: Signature, leaves: list[Tensor], number: int) -> Iterator[list[Tensor]]:
    """The item itself, or its parts of the program's batch size."""
    wanted = [spec.extents for spec in signature.inputs]
    if all(tuple(leaf.shape) == extents for leaf, extents in zip(leaves, wanted, strict=True)):
        yield leaves
        return
    size = wanted[0][0] if wanted[0] else 0
    given = leaves[0].shape[0] if leaves[0].dim() else 0
    for spec, leaf, extents in zip(signature.inputs, leaves, wanted, strict=True):
        fits = bool(extents) and leaf.dim() == len(extents) and tuple(leaf.shape[1:]) == extents[1:]
        if not fits or extents[0] != size or leaf.shape[0] != given or not size or not given or given % size:
            _refuse(number, spec, f"has the shape {list(leaf.shape)}")
    yield from (list(parts) for parts in zip(*(torch.split(leaf, size) for leaf in leaves), strict=True))


def _refuse(number: int, spec: TensorSpec, what: str) -> None:
    raise InputError(
        f"Calibration batch {number}: input {spec.name!r} {what}, the program takes {spec}.",
        "Give inputs as the model was compiled for, or several times as many along the first dimension.",
    )
