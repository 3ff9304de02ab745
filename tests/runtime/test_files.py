"""Files are written whole or not at all, and read only if they are files."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from planish.backends.tvm import files
from planish.errors import ArtifactError, OutputError


def fill(data: bytes) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(data)

    return write


def test_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / "a", fill(b"x"))
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    target.chmod(0o640)
    files.write_atomically(target, fill(b"new"))
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    files.write_atomically(tmp_path / "link", fill(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def stop(file: BinaryIO) -> None:
        file.write(b"half")
        raise failure

    with pytest.raises(failure):
        files.write_atomically(target, stop)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes fails a write as a full disk does, half way."""
    target = tmp_path / "a"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(OutputError, match="a cannot be written: File too large"):
            files.write_atomically(target, fill(bytes(200_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    """ENOSPC itself, as /dev/full gives it."""

    def into_full(file: BinaryIO) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            os.write(full, b"x")
        finally:
            os.close(full)

    with pytest.raises(OutputError, match="No space left on device"):
        files.write_atomically(tmp_path / "a", into_full)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing/a", "No such file or directory"), ("folder", "it is a folder"), ("/dev/full", "not a regular file")],
)
def test_unwritable_paths(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=message):
        files.write_atomically(tmp_path / name, fill(b"x"))


def as_nobody(code: str, *args: str) -> str:
    """Run `code` without root's rights over permissions."""
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A folder that others may enter, if its parents allow it."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    return tmp_path


PROBE = """
import os, sys
from planish.errors import PlanishError
from planish.backends.tvm import files
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
try:
    {call}
    print("allowed")
except PlanishError as error:
    print(type(error).__name__, error)
"""


def test_a_folder_without_permission(public: Path) -> None:
    public.chmod(0o555)
    said = as_nobody(PROBE.format(call="files.write_atomically(sys.argv[1], lambda f: None)"), str(public / "a"))
    public.chmod(0o755)
    assert said.startswith(f"OutputError {public / 'a'} cannot be written: Permission denied"), said


def test_a_read_only_file_is_not_replaced(public: Path) -> None:
    public.chmod(0o777)
    (public / "a").write_bytes(b"old")
    (public / "a").chmod(0o444)
    said = as_nobody(PROBE.format(call="files.write_atomically(sys.argv[1], lambda f: None)"), str(public / "a"))
    assert said.startswith(f"OutputError {public / 'a'} cannot be written: Permission denied"), said
    assert (public / "a").read_bytes() == b"old"


def test_an_unreadable_file(public: Path) -> None:
    (public / "a").write_bytes(b"old")
    (public / "a").chmod(0o000)
    said = as_nobody(PROBE.format(call="files.map_file(sys.argv[1])"), str(public / "a"))
    assert said.startswith(f"ArtifactError {public / 'a'} cannot be read: Permission denied"), said


def test_paths_that_are_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name, message in {
        "missing": "missing does not exist",
        ".": "is a folder",
        "empty": "empty is empty",
        "pipe": "not a regular file",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(ArtifactError, match=message):
            files.map_file(f"{tmp_path}/{name}")


def test_a_mapping_shows_the_file_and_does_not_change_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    mapping = files.map_file(tmp_path / "a")
    mapping[0] = 0
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_an_anonymous_file_has_no_name() -> None:
    before = len(os.listdir("/proc/self/fd"))
    mapping = files.anonymous_file(fill(b"abc"))
    assert mapping[:] == b"abc"
    mapping.close()
    assert len(os.listdir("/proc/self/fd")) == before
