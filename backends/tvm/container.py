"""The artifact's container: a header, a JSON manifest and members, no byte of which lies outside a check.

file = header (96 bytes) + manifest + (zeros + member)...      read(write(manifest, members)) == (manifest, members)

    0  magic        8   137 "planish"
    8  version      4   format version, little endian like every number here
   12  zero         4
   16  length       8   of the whole file
   24  manifest     8   its length
   32  digest      32   SHA-256 of the manifest
   64  check       32   SHA-256 of the 64 bytes before

Members start at multiples of 4096, in the manifest's order; what lies between is zero, the file ends with the last.
Imports neither torch nor TVM nor NumPy. Nothing in it needs Python to be read.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from ...errors import ArtifactError, NewerFormatError

MAGIC = b"\x89planish"
VERSION = 2
ALIGNMENT = 4096

_FIELDS = struct.Struct("<8sIIQQ32s")
_HEADER = _FIELDS.size + 32
_AGAIN = "Copy the file again from where it was made, or compile the model again."

Chunks = Sequence[Any]
"""A member's content in pieces: bytes, memoryviews or C-contiguous arrays."""


class Contents(NamedTuple):
    """A container that passed every check; `members` are views of the buffer it was read from."""

    manifest: dict[str, Any]
    members: dict[str, memoryview]


class _Header(NamedTuple):
    length: int
    manifest: int
    digest: bytes


def write(file: BinaryIO, manifest: Mapping[str, Any], members: Mapping[str, Chunks]) -> None:
    """Write a container; "members" is added to the manifest."""
    table: dict[str, dict[str, Any]] = {}
    for name, chunks in members.items():
        table[name] = {"length": sum(len(part) for part in _parts(chunks)), "sha256": _digest(chunks)}
    text, end = _layout({**manifest, "members": table}, table)
    fields = _FIELDS.pack(MAGIC, VERSION, 0, end, len(text), hashlib.sha256(text).digest())
    file.write(fields + hashlib.sha256(fields).digest() + text)
    position = _HEADER + len(text)
    for name, chunks in members.items():
        file.write(bytes(table[name]["offset"] - position))
        for part in _parts(chunks):
            file.write(part)
        position = table[name]["offset"] + table[name]["length"]


def read(buffer: memoryview, name: str) -> Contents:
    """Check every byte of a container and return its parts; `name` is the file's, for messages."""
    header = _read_header(buffer, name)
    text = buffer[_HEADER : _HEADER + header.manifest]
    if hashlib.sha256(text).digest() != header.digest:
        raise ArtifactError(f"{name} is altered: its manifest does not match its digest.", _AGAIN)
    manifest = _parse(text, name)
    members: dict[str, memoryview] = {}
    position = _HEADER + header.manifest
    for member, entry in manifest["members"].items():
        start, size = _entry(entry, member, name)
        if start != _aligned(position) or start + size > header.length:
            raise ArtifactError(f"{name} is malformed: its member {member!r} lies at {start}.", _AGAIN)
        _check_zero(buffer[position:start], position, name)
        members[member] = buffer[start : start + size]
        if hashlib.sha256(members[member]).hexdigest() != entry["sha256"]:
            raise ArtifactError(f"{name} is altered: its member {member!r} does not match its digest.", _AGAIN)
        position = start + size
    if position != header.length:
        raise ArtifactError(f"{name} is malformed: {header.length - position} bytes belong to no member.", _AGAIN)
    return Contents(manifest, members)


def _read_header(buffer: memoryview, name: str) -> _Header:
    if not len(buffer):
        raise ArtifactError(f"{name} is empty.", _AGAIN)
    start = bytes(buffer[: len(MAGIC)])
    if start != MAGIC[: len(start)]:
        raise ArtifactError(f"{name} is not a planish artifact.", "Give a file written by `planish compile` or `save`.")
    if len(buffer) < _HEADER:
        raise ArtifactError(f"{name} is truncated: it ends after {len(buffer)} bytes, inside its header.", _AGAIN)
    _, version, zero, length, manifest, digest = _FIELDS.unpack_from(buffer)
    if version > VERSION:
        raise NewerFormatError(
            f"{name} has format version {version}; this planish reads version {VERSION}.",
            "Install a newer planish, or compile the model with this one.",
        )
    check = bytes(buffer[_FIELDS.size : _HEADER])
    if hashlib.sha256(buffer[: _FIELDS.size]).digest() != check or version < 1 or zero:
        raise ArtifactError(f"{name} is altered: its header does not match its check.", _AGAIN)
    if version < VERSION:
        raise ArtifactError(
            f"{name} has format version {version}; this planish reads version {VERSION}.", "Compile the model again."
        )
    if len(buffer) < length:
        raise ArtifactError(f"{name} is truncated: it has {len(buffer)} of {length} bytes.", _AGAIN)
    if len(buffer) > length:
        raise ArtifactError(f"{name} is altered: {len(buffer) - length} bytes follow its end.", _AGAIN)
    if manifest > length - _HEADER:
        raise ArtifactError(f"{name} is malformed: its manifest is longer than the file.", _AGAIN)
    return _Header(length, manifest, digest)


def _layout(manifest: dict[str, Any], table: dict[str, dict[str, Any]]) -> tuple[bytes, int]:
    """Place the members; offsets are part of the manifest whose length they depend on."""
    text = b""
    while True:
        position = _HEADER + len(text)
        for entry in table.values():
            entry["offset"] = _aligned(position)
            position = entry["offset"] + entry["length"]
        again = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        if len(again) == len(text):
            return again, position
        text = again.ljust(len(text))  # never shorter than before, so that this ends; JSON may end in spaces
        if len(text) > len(again):
            return text, position


def _parse(text: memoryview, name: str) -> dict[str, Any]:
    try:
        manifest = json.loads(bytes(text))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("members"), dict):
        raise ArtifactError(f"{name} is malformed: its manifest is not what planish writes.", _AGAIN)
    return manifest


def _entry(entry: Any, member: str, name: str) -> tuple[int, int]:
    """Offset and length of a member."""
    if isinstance(entry, dict) and isinstance(entry.get("sha256"), str):
        start, size = entry.get("offset"), entry.get("length")
        if isinstance(start, int) and isinstance(size, int) and start >= 0 and size >= 0:
            return start, size
    raise ArtifactError(f"{name} is malformed: its member {member!r} has no place.", _AGAIN)


def _check_zero(gap: memoryview, position: int, name: str) -> None:
    if any(gap):
        raise ArtifactError(f"{name} is altered: the gap at byte {position} is not zero.", _AGAIN)


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _parts(chunks: Chunks) -> Iterable[memoryview]:
    """Each piece as bytes; pieces without bytes are left out (they cannot be cast)."""
    views = (memoryview(chunk) for chunk in chunks)
    return (view.cast("B") for view in views if view.nbytes)


def _digest(chunks: Chunks) -> str:
    digest = hashlib.sha256()
    for part in _parts(chunks):
        digest.update(part)
    return digest.hexdigest()
