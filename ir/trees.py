"""From torch's pytrees and Python's `forward` signatures to `Structure` and `Parameter`.

structure(tree_structure(value), leaves)  nests like  value
"""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from .signature import Parameter
from .structure import Constant, Structure

LEAF = Structure("leaf")


def structure(spec: Any, leaves: Sequence[Structure]) -> Structure:
    """A TreeSpec as a Structure, with these (leaf or constant) in the place of its leaves."""
    rest = iter(leaves)
    result = _structure(spec, rest)
    if next(rest, None) is not None:
        raise CaptureError("The exported program's tree has fewer leaves than values.", "Report this as a defect.")
    return result


def _structure(spec: Any, leaves: Iterator[Structure]) -> Structure:
    """Take leaves in order while walking down."""
    if spec.is_leaf():
        return next(leaves)
    children = tuple(_structure(child, leaves) for child in spec.children())
    kind = spec.context if spec.type is namedtuple else spec.type  # pytree keeps a named tuple's class beside
    if kind in (list, deque):
        return Structure("list", children)
    if kind in (tuple, torch.Size):
        return Structure("tuple", children)
    fields, absent = record_fields(kind, spec.context)
    if fields or absent:
        nones = tuple(Structure.constant(None) for _ in absent)
        return Structure("namedtuple", (*children, *nones), (kind.__name__, *fields, *absent))
    keys = _dict_keys(spec)
    if keys is not None and len(keys) == len(children) and all(isinstance(k, str | int) for k in keys):
        return Structure("dict", children, tuple(keys))
    raise CaptureError(
        f"The model takes or returns a {kind.__module__}.{kind.__qualname__}, which has no plain form.",
        "Use tuples, lists, dicts with string keys, or named tuples at the model's border.",
    )


def record_fields(kind: type, context: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fields of named tuples, torch's return types and dataclasses known to torch.export; and those that are None.

    A dataclass leaves fields that are None out of its children, and names them in its context.
    """
    if issubclass(kind, tuple):
        return tuple(getattr(kind, "_fields", None) or getattr(kind, "__match_args__", None) or ()), ()
    if hasattr(kind, "__dataclass_fields__") and not issubclass(kind, Mapping):
        names, absent = context if isinstance(context, list | tuple) and len(context) == 2 else ((), ())
        return tuple(names), tuple(absent)
    return (), ()


def _dict_keys(spec: Any) -> list[Any] | None:
    """Keys of dicts and of mapping classes registered with pytree (their context is the list of keys)."""
    if spec.type is defaultdict:
        return list(spec.context[1])
    if spec.type in (dict, OrderedDict) or issubclass(spec.type, Mapping):
        return list(spec.context) if isinstance(spec.context, list | tuple) else None
    return None


def constant(value: Any, where: str) -> Structure:
    """A Python constant of the signature, refused by name if it is of no plain type."""
    if value is None or type(value) in (bool, int, float, str):
        plain: Constant = value
        return Structure.constant(plain)
    raise CaptureError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, not a tensor or plain constant.",
        "Pass tensors, None, bool, int, float or str; set everything else when the model is made.",
    )


def forward_parameters(forward: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters of a `forward` method, with defaults where these are plain constants."""
    return tuple(
        Parameter(p.name, _KINDS[p.kind], _default(p.default))
        for p in inspect.signature(forward).parameters.values()
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    )


_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.VAR_POSITIONAL: "variadic",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
}


def _default(value: Any) -> Structure | None:
    """A default as a Structure without leaves, None if there is none or it has no plain form."""
    if value is inspect.Parameter.empty:
        return None
    leaves, spec = pytree.tree_flatten(value)
    try:
        return structure(spec, [constant(leaf, "A default") for leaf in leaves])
    except CaptureError:
        return None
