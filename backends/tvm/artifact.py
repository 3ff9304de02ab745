"""What an artifact holds: code, weights, the runtime library, a self-test, and the manifest that explains them.

artifact = container(manifest(signature, target, versions, call table, report...), code, weights, runtime, selftest)

Imports neither torch nor TVM: the compiler writes through it and the runtime reads through it.
"""

from __future__ import annotations

import functools
import hashlib
import math
import mmap
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np

from ... import __version__
from ...errors import ArtifactError, CpuFeatureError
from ...ir.report import Report
from ...ir.signature import Signature
from . import container, cpu, files
from .plan import Derived

WEIGHT_ALIGNMENT = 64
"""Bytes; the widest vector register."""

_MEMBERS = ("code", "weights")
_KEYS = ("name", "versions", "target", "signature", "report", "calls", "weights", "runtime", "selftest")


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter of main: an array of the file, or what loading makes of that."""

    stored: np.ndarray
    derived: Derived | None = None


@dataclass(frozen=True)
class Contents:
    """What the compiler puts in. `runtime` is libtvm_runtime.so, `expected` are the self-test's outputs."""

    library: bytes
    weights: Mapping[str, Weight]
    manifest: Mapping[str, Any]
    runtime: bytes | None = None
    expected: Sequence[np.ndarray] | None = None

    def write(self, file: BinaryIO) -> None:
        """Write the container."""
        index, chunks = _place_weights(self.weights)
        members: dict[str, container.Chunks] = {"code": [self.library], "weights": chunks}
        manifest = {"planish": __version__, **self.manifest, "weights": index, "runtime": None, "selftest": None}
        if self.runtime is not None:
            members["runtime"] = [_compressed(self.runtime)]
            manifest["runtime"] = {"encoding": "zlib", "length": len(self.runtime)}
        if self.expected is not None:
            manifest["selftest"], members["selftest"] = _place({str(i): a for i, a in enumerate(self.expected)})
        container.write(file, to_plain(manifest), members)


class Artifact:
    """An artifact whose every byte was checked. Arrays are views of the mapping, shared between processes."""

    def __init__(self, mapping: mmap.mmap, name: str) -> None:
        """Check all of it."""
        self.name = name
        self.mapping = mapping
        self.manifest, self._members = container.read(memoryview(mapping), name)
        missing = [key for key in _MEMBERS if key not in self._members]
        if missing := missing + [key for key in _KEYS if key not in self.manifest]:
            raise ArtifactError(f"{name} is malformed: it has no {missing[0]!r}.", "Compile the model again.")

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Artifact:
        """Map and check a file."""
        return Artifact(files.map_file(path), str(path))

    @staticmethod
    def in_memory(contents: Contents) -> Artifact:
        """An artifact that has no name yet: what `compile` returns until it is saved."""
        return Artifact(files.anonymous_file(contents.write), "the compiled model")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Copy to `path`, atomically."""
        files.write_atomically(path, self._copy)

    def _copy(self, file: BinaryIO) -> None:
        file.write(self.mapping)

    def contents(self) -> Contents:
        """What it was made of; `Artifact.in_memory(artifact.contents())` is the same artifact."""
        weights = dict(zip((entry["name"] for entry in self.manifest["weights"]), self.weights, strict=True))
        return Contents(bytes(self.code), weights, self.manifest, self.runtime, self.expected)

    @cached_property
    def signature(self) -> Signature:
        """Inputs and outputs."""
        return Signature.from_json(self.manifest["signature"])

    @cached_property
    def report(self) -> Report:
        """What each pass did, and how near integers come to the model."""
        return Report.from_json(self.manifest["report"], self.manifest.get("fidelity"))

    @property
    def code(self) -> memoryview:
        """The shared library."""
        return self._members["code"]

    @property
    def weights(self) -> list[Weight]:
        """Weights in the order of main's parameters."""
        index = self.manifest["weights"]
        arrays = _arrays(index, self._members["weights"], self.name)
        return [Weight(array, _derived(entry)) for array, entry in zip(arrays, index, strict=True)]

    def release(self) -> None:
        """Give back the memory of stored weights that were only there to be derived from; they stay in the file."""
        table, index = self.manifest["members"]["weights"], self.manifest["weights"]
        kept = [entry["offset"] + _bytes_of(entry) for entry in index if "derived" not in entry]
        start = table["offset"] + -(-max(kept, default=0) // mmap.PAGESIZE) * mmap.PAGESIZE
        size = table["offset"] + table["length"] - start
        if size > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED, start, size)  # nobody wrote to the private pages

    @property
    def expected(self) -> list[np.ndarray] | None:
        """Outputs of the self-test, if it is inside."""
        if self.manifest["selftest"] is None:
            return None
        return _arrays(self.manifest["selftest"], self._members["selftest"], self.name)

    @property
    def runtime(self) -> bytes | None:
        """The runtime library, if it is inside."""
        if self.manifest["runtime"] is None:
            return None
        return zlib.decompress(self._members["runtime"])

    def check_machine(self, machine: str | None = None, flags: frozenset[str] | None = None) -> None:
        """Raise CpuFeatureError unless this machine has what the code needs."""
        target = self.manifest["target"]
        arch, here = target["triple"].split("-")[0], cpu.architecture(machine)
        todo = 'Compile the model on this machine, or with the target set to this CPU (target="native").'
        if arch != here:
            raise CpuFeatureError(f"{self.name} is made for {arch} ({target['cpu']}); this machine is {here}.", todo)
        if lacks := cpu.missing(arch, target["features"], flags):
            what = f"{self.name} is made for {target['cpu']}; this machine lacks {', '.join(lacks)}."
            raise CpuFeatureError(what, todo)


@functools.lru_cache(1)
def _compressed(library: bytes) -> bytes:
    """It is the same for every artifact made in a process."""
    return zlib.compress(library, 6)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a file that passes every check; also of one made for another machine."""
    return Artifact.open(path).manifest


def to_plain(value: Any) -> Any:
    """JSON of `value`: tuples and sets become lists, NumPy scalars numbers, and what is not finite null."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(to_plain(part) for part in value)
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _place_weights(weights: Mapping[str, Weight]) -> tuple[list[dict[str, Any]], list[Any]]:
    """As `_place`, those that are only derived from last, so that their pages can be given back together."""
    last = {name for name, weight in weights.items() if weight.derived is not None}
    ordered = sorted(weights, key=lambda name: name in last)
    placed, chunks = _place({name: weights[name].stored for name in ordered})
    entries = dict(zip(ordered, placed, strict=True))
    for name in last:
        entries[name]["derived"] = asdict(weights[name].derived)  # type: ignore[arg-type]
    return [entries[name] for name in weights], chunks


def _derived(entry: Mapping[str, Any]) -> Derived | None:
    made = entry.get("derived")
    return None if made is None else Derived(made["symbol"], tuple(made["shape"]), made["dtype"])


def _place(arrays: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Where each array lies in its member, and the member's chunks; equal arrays lie in one place."""
    index: list[dict[str, Any]] = []
    chunks: list[Any] = []
    places: dict[bytes, int] = {}
    position = 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        free = -(-position // WEIGHT_ALIGNMENT) * WEIGHT_ALIGNMENT
        start = places.setdefault(hashlib.sha256(content.data).digest(), free)
        index.append({"name": name, "dtype": array.dtype.name, "shape": array.shape, "offset": start})
        if start >= position:
            chunks += [bytes(start - position), content]
            position = start + array.nbytes
    return index, chunks


def _bytes_of(entry: Mapping[str, Any]) -> int:
    return int(math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize)


def _arrays(index: Sequence[Mapping[str, Any]], member: memoryview, name: str) -> list[np.ndarray]:
    """Views of a member."""
    arrays = []
    for entry in index:
        shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
        count = math.prod(shape)
        if entry["offset"] + count * dtype.itemsize > len(member):
            raise ArtifactError(f"{name} is malformed: {entry['name']!r} ends outside.", "Compile the model again.")
        flat = np.frombuffer(member, dtype, count, entry["offset"]) if count else np.empty(0, dtype)
        arrays.append(flat.reshape(shape))
    return arrays
