"""The nesting of Python values over flat leaves. Imports neither torch nor NumPy.

s.unflatten(s.flatten(value)) == value
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from ..errors import InputError

Constant = None | bool | int | float | str
Key = bool | int | float | str
Json = Any

_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_FIX = "Pass the same nesting of tuples, lists and dicts as at capture."


@dataclass(frozen=True)
class Structure:
    """The nesting of a Python value over flat leaves.

    `kind` is "leaf", "tuple", "list", "dict", "namedtuple" or "constant"; `keys` are the dict's keys or
    the namedtuple's (class name, *fields); `children` the parts in order; `value` the constant (None, int,
    float, bool or str: what a model may take or return beside tensors).
    """

    kind: str
    children: tuple[Structure, ...] = ()
    keys: tuple[Key, ...] = ()
    value: Constant = None

    @staticmethod
    def constant(value: Constant) -> Structure:
        """A Python constant."""
        return Structure("constant", value=value)

    @cached_property
    def leaf_count(self) -> int:
        """Number of leaves."""
        return 1 if self.kind == "leaf" else sum(child.leaf_count for child in self.children)

    def items(self) -> Iterator[tuple[Key, Structure]]:
        """Parts by key (dict), field (namedtuple) or position."""
        keys: Sequence[Key] = range(len(self.children))
        if self.kind in ("dict", "namedtuple"):
            keys = self.keys if self.kind == "dict" else self.keys[1:]
        return zip(keys, self.children, strict=True)

    def paths(self, root: str) -> list[str]:
        """Dotted names of the leaves, in order: `root.ids`, `root.0.1`; a lone leaf is `root`."""
        if self.kind == "leaf":
            return [root]
        return [path for key, child in self.items() for path in child.paths(f"{root}.{key}")]

    def flatten(self, value: Any, name: str = "value") -> list[Any]:
        """The leaves of `value`, which must nest like this; `name` is what errors call it."""
        if self.kind == "leaf":
            return [_leaf(value, name)]
        if self.kind == "constant":
            _check_constant(self.value, value, name)
            return []
        parts = zip(self.items(), self._parts(value, name), strict=True)
        return [leaf for (key, child), part in parts for leaf in child.flatten(part, f"{name}.{key}")]

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """Rebuild the value from its leaves."""
        if len(leaves) != self.leaf_count:
            raise InputError(f"{len(leaves)} leaves for a structure of {self.leaf_count}.", f"Expected {self}.")
        return self._build(iter(leaves))

    def _build(self, leaves: Iterator[Any]) -> Any:
        """Rebuild, taking leaves as they come."""
        if self.kind == "leaf":
            return next(leaves)
        if self.kind == "constant":
            return self.value
        parts = [child._build(leaves) for child in self.children]
        if self.kind == "dict":
            return dict(zip(self.keys, parts, strict=True))
        if self.kind == "namedtuple":
            return _record(*map(str, self.keys))(*parts)
        return parts if self.kind == "list" else tuple(parts)

    def _parts(self, value: Any, name: str) -> list[Any]:
        """The parts of a container in this structure's order."""
        if self.kind == "dict":
            return self._dict_parts(value, name)
        if self.kind == "namedtuple" and not isinstance(value, list | dict) and type(value) is not tuple:
            fields = [str(key) for key in self.keys[1:]]
            missing = [field for field in fields if not hasattr(value, field)]
            if missing:
                raise InputError(f"{name!r} has no field {missing[0]!r}.", f"Expected {self}.")
            return [getattr(value, field) for field in fields]
        if not isinstance(value, list | tuple):
            raise InputError(f"{name!r} should be a {self.kind}, got {_describe(value)}.", f"{_FIX} Expected {self}.")
        if len(value) != len(self.children):
            raise InputError(
                f"{name!r} should have {len(self.children)} parts, got {len(value)}.", f"{_FIX} Expected {self}."
            )
        return list(value)

    def _dict_parts(self, value: Any, name: str) -> list[Any]:
        """A mapping's values by this structure's keys, in whatever order it holds them."""
        if not isinstance(value, Mapping):
            raise InputError(f"{name!r} should be a dict, got {_describe(value)}.", f"{_FIX} Expected {self}.")
        missing = [key for key in self.keys if key not in value]
        extra = [key for key in value if key not in self.keys]
        if missing or extra:
            what = f"lacks the key {missing[0]!r}" if missing else f"has an unknown key {extra[0]!r}"
            raise InputError(f"{name!r} {what}.", f"{_FIX} Expected {self}.")
        return [value[key] for key in self.keys]

    def to_json(self) -> Json:
        """Plain JSON: "*" for a leaf, otherwise one dict a node."""
        if self.kind == "leaf":
            return "*"
        if self.kind == "constant":
            odd = isinstance(self.value, float) and not math.isfinite(self.value)
            return {"float": repr(self.value)} if odd else {"value": self.value}
        data: dict[str, Json] = {"kind": self.kind, "children": [child.to_json() for child in self.children]}
        return {**data, "keys": list(self.keys)} if self.keys else data

    @staticmethod
    def from_json(data: Json) -> Structure:
        """Inverse of `to_json`."""
        if data == "*":
            return Structure("leaf")
        if "float" in data:
            return Structure.constant(float(data["float"]))
        if "value" in data:
            return Structure.constant(data["value"])
        children = tuple(Structure.from_json(child) for child in data["children"])
        return Structure(data["kind"], children, tuple(data.get("keys", ())))

    def __eq__(self, other: object) -> bool:
        """Same nesting, keys and constants (1, 1.0 and True differ; NaN equals NaN)."""
        if not isinstance(other, Structure):
            return NotImplemented
        mine, theirs = (self.kind, self.keys, self.children), (other.kind, other.keys, other.children)
        return mine == theirs and same_constant(self.value, other.value)

    def __hash__(self) -> int:
        """Hash consistently with equality."""
        return hash((self.kind, self.keys, self.children, repr(self.value)))

    def __str__(self) -> str:
        """Print as `{'ids': *, 'pair': (*, None)}`."""
        if self.kind == "leaf":
            return "*"
        if self.kind == "constant":
            return repr(self.value)
        if self.kind == "dict":
            return "{" + ", ".join(f"{key!r}: {child}" for key, child in self.items()) + "}"
        if self.kind == "namedtuple":
            return f"{self.keys[0]}(" + ", ".join(f"{key}={child}" for key, child in self.items()) + ")"
        inner = ", ".join(map(str, self.children))
        return f"[{inner}]" if self.kind == "list" else f"({inner}{',' * (len(self.children) == 1)})"


def same_constant(a: Any, b: Any) -> bool:
    """Equal in type and value; NaN equals NaN, 0.0 differs from -0.0."""
    return type(a) is type(b) and (repr(a) == repr(b) if isinstance(a, float) else bool(a == b))


def _leaf(value: Any, name: str) -> Any:
    """The value itself, unless it cannot be a tensor."""
    if isinstance(value, (*_SCALARS, list, tuple, dict, set)):
        raise InputError(f"{name!r} should be a tensor, got {_describe(value)}.", _FIX)
    return value


def _check_constant(expected: Constant, value: Any, name: str) -> None:
    """A Python constant was compiled in: only the same value is right."""
    if not same_constant(expected, value):
        raise InputError(
            f"{name!r} was {expected!r} at capture and is fixed, got {_describe(value)}.",
            "Pass the same value, or capture the model again with the other one.",
        )


def _describe(value: Any) -> str:
    """A short word for a wrong value."""
    if isinstance(value, _SCALARS):
        return repr(value) if value is None or isinstance(value, bool) else f"{type(value).__name__} {value!r}"
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


@lru_cache(maxsize=256)
def _record(name: str, *fields: str) -> Any:
    """A namedtuple class of that name: what stands in for the model's own class, which may be far away."""
    return namedtuple(name, fields, rename=True)
