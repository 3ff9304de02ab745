"""Objects compiled before, by content: in this process's memory, and in a private folder for later processes.

cache.get(job) == what a worker made of an equal job with equal versions, or None

The folder is $PLANISH_CACHE_DIR, else $XDG_CACHE_HOME/planish, else ~/.cache/planish; an empty PLANISH_CACHE_DIR
keeps nothing on disk. It belongs to its user alone (0700), each file carries its digest, and whatever is wrong
with it only means that kernels are compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from ...errors import OutputError
from .files import write_atomically
from .worker import Job

LIMIT = 512 * 2**20
"""Bytes on disk; the files used longest ago go first."""


class ObjectCache:
    """Object files by the digest of what they were compiled from."""

    def __init__(self, folder: Path | None, versions: Mapping[str, str], limit: int = LIMIT) -> None:
        """`folder` None keeps objects in memory only."""
        self.folder = _private(folder) if folder is not None else None
        self._versions = repr(sorted(versions.items()))
        self._memory: dict[str, bytes] = {}
        if self.folder is not None:
            _prune(self.folder, limit)

    def get(self, job: Job) -> bytes | None:
        """The object, if it is known and whole."""
        key = self._key(job)
        if key not in self._memory and self.folder is not None:
            with contextlib.suppress(OSError):
                path = self.folder / key
                stored = path.read_bytes()
                if hashlib.sha256(stored[32:]).digest() == stored[:32]:
                    self._memory[key] = stored[32:]
                    os.utime(path)
        return self._memory.get(key)

    def put(self, job: Job, data: bytes) -> None:
        """Keep an object; a disk that is full or read-only does not matter."""
        key = self._key(job)
        self._memory[key] = data
        if self.folder is not None:
            stored = hashlib.sha256(data).digest() + data

            def fill(file: BinaryIO) -> None:
                file.write(stored)

            with contextlib.suppress(OutputError):
                write_atomically(self.folder / key, fill, sync=False)

    def _key(self, job: Job) -> str:
        return hashlib.sha256("\0".join((self._versions, *job)).encode()).hexdigest()


def default_folder() -> Path | None:
    """Where this user keeps objects."""
    chosen = os.environ.get("PLANISH_CACHE_DIR")
    if chosen is not None:
        return Path(chosen) / "objects" if chosen else None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "planish" / "objects" if os.path.isabs(base) else None


def _private(folder: Path) -> Path | None:
    """The folder, made if need be; None if it cannot be made or others might write it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return None
        if status.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError:
        return None
    return folder


def _prune(folder: Path, limit: int) -> None:
    """Delete the files used longest ago until the rest fits."""
    with contextlib.suppress(OSError):
        entries = [(entry.stat(), entry.path) for entry in os.scandir(folder)]
        entries.sort(key=lambda pair: -pair[0].st_mtime)
        total = 0
        for status, path in entries:
            total += status.st_size
            if total > limit:
                os.unlink(path)
