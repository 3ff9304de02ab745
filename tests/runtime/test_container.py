"""No byte of a container lies outside a check."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.backends.tvm import container
from planish.errors import ArtifactError, NewerFormatError


def written(manifest: dict[str, Any], members: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    container.write(file, manifest, members)
    return file.getvalue()


def read(data: bytes) -> container.Contents:
    return container.read(memoryview(data), "m.planish")


@pytest.fixture(scope="module")
def small() -> bytes:
    return written(
        {"name": "é"}, {"code": [b"abc"], "weights": [np.arange(5, dtype=np.float32), b"", b"z"], "none": []}
    )


def test_round_trip(small: bytes) -> None:
    manifest, members = read(small)
    assert manifest["name"] == "é"
    assert {k: bytes(v) for k, v in members.items()} == {
        "code": b"abc",
        "weights": np.arange(5, dtype="<f4").tobytes() + b"z",
        "none": b"",
    }


def test_layout_is_what_the_module_says(small: bytes) -> None:
    magic, version, zero, length, manifest, digest = struct.unpack_from("<8sIIQQ32s", small)
    assert (magic, version, zero, length) == (b"\x89planish", 2, 0, len(small))
    assert digest == hashlib.sha256(small[96 : 96 + manifest]).digest()
    assert small[64:96] == hashlib.sha256(small[:64]).digest()
    assert all(entry["offset"] % 4096 == 0 for entry in read(small).manifest["members"].values())
    assert small[4096:4099] == b"abc"


def test_every_byte_flipped_is_refused(small: bytes) -> None:
    for index in range(len(small)):
        altered = bytearray(small)
        altered[index] ^= 1 << index % 8
        with pytest.raises(ArtifactError):
            read(altered)


def test_every_truncation_is_refused(small: bytes) -> None:
    for length in [*range(200), *range(200, len(small), 61), len(small) - 1]:
        with pytest.raises(ArtifactError):
            read(small[:length])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"", "m.planish is empty"),
        (lambda d: b"PK\x03\x04" + d[4:], "not a planish artifact"),
        (lambda d: d[:50], "ends after 50 bytes, inside its header"),
        (lambda d: d[:-3], f"has {12288 - 3} of {12288} bytes"),
        (lambda d: d + b"\0\0", "2 bytes follow its end"),
        (lambda d: d[:100] + b"#" + d[101:], "manifest does not match"),
        (lambda d: d[:4096] + b"X" + d[4097:], "member 'code' does not match"),
        (lambda d: d[:5000] + b"\1" + d[5001:], "gap at byte 4099 is not zero"),
        (lambda d: d[:20] + b"\1" + d[21:], "header does not match"),
    ],
)
def test_messages_say_what_is_wrong(small: bytes, change: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read(change(small))


def test_newer_format_has_its_own_error(small: bytes) -> None:
    newer = small[:8] + struct.pack("<I", 3) + small[12:]
    with pytest.raises(NewerFormatError, match="format version 3; this planish reads version 2"):
        read(newer)


def test_an_older_format_is_not_guessed_at(small: bytes) -> None:
    fields = small[:8] + struct.pack("<I", 1) + small[12:64]
    with pytest.raises(ArtifactError, match="format version 1; this planish reads version 2"):
        read(fields + hashlib.sha256(fields).digest() + small[96:])


def sealed(text: bytes, rest: bytes = b"") -> bytes:
    """A file whose digests are right, whatever its manifest says."""
    fields = struct.pack(
        "<8sIIQQ32s",
        container.MAGIC,
        container.VERSION,
        0,
        96 + len(text + rest),
        len(text),
        hashlib.sha256(text).digest(),
    )
    return fields + hashlib.sha256(fields).digest() + text + rest


def malformed() -> Iterator[bytes]:
    yield b"not json"
    yield b"[]"
    yield b"{}"
    yield b'{"members": []}'
    yield b'{"members": {"code": 1}}'
    yield b'{"members": {"code": {"offset": -4096, "length": 1, "sha256": ""}}}'
    yield b'{"members": {"code": {"offset": 4096, "length": 1, "sha256": ""}}}'
    yield b'{"members": {"code": {"offset": 1e9, "length": 1, "sha256": ""}}}'


@pytest.mark.parametrize("text", list(malformed()))
def test_a_manifest_that_matches_its_digest_may_still_be_wrong(text: bytes) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        read(sealed(text))


def test_bytes_that_belong_to_no_member_are_refused() -> None:
    with pytest.raises(ArtifactError, match="4 bytes belong to no member"):
        read(sealed(b'{"members": {}}', b"\0\0\0\0"))


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.binary(max_size=9000), max_size=5), st.text(max_size=5000))
def test_round_trip_of_anything(members: dict[str, bytes], note: str) -> None:
    """Offsets are part of the manifest that they depend on; whatever the lengths, the layout is consistent."""
    manifest, back = read(written({"note": note}, {k: [v] for k, v in members.items()}))
    assert manifest["note"] == note
    assert {k: bytes(v) for k, v in back.items()} == members
