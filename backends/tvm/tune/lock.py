"""One measurement at a time on a machine, and none beside another tuner's compiler.

measuring(): alone            compiling(): beside other compilers, but beside no measurement

The locks are of the operating system (flock) and end with the process that holds them, however it ends. The file is
in the folder for temporary files, which the tuners of all users share; nothing is ever written to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ....errors import TuningError

PATIENCE = 120.0
"""Seconds to wait for others. They hold the lock for less than this, unless they were stopped."""


@contextlib.contextmanager
def measuring(path: Path | None = None, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the machine alone; raises TuningError if others do not let go of it."""
    with _held(fcntl.LOCK_EX, path, patience):
        yield


@contextlib.contextmanager
def compiling(path: Path | None = None, patience: float = PATIENCE) -> Iterator[None]:
    """Keep others from measuring while every core is busy here."""
    with _held(fcntl.LOCK_SH, path, patience):
        yield


def default_path() -> Path:
    """The machine's lock."""
    return Path(tempfile.gettempdir()) / "planish-measuring.lock"


@contextlib.contextmanager
def _held(kind: int, path: Path | None, patience: float) -> Iterator[None]:
    descriptor = _open(path or default_path())
    try:
        _acquire(descriptor, kind, path or default_path(), patience)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """The file, which whoever comes first makes for everybody; a link would lead to a file of somebody else's."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o444)
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, 0o444)
            return descriptor
        return os.open(path, flags)
    except OSError as error:
        raise TuningError(
            f"The lock {path}, which keeps tuners from disturbing each other, cannot be opened: {error.strerror}.",
            "Set TMPDIR to a folder that can be written.",
        ) from None


def _acquire(descriptor: int, kind: int, path: Path, patience: float) -> None:
    """Ask again and again: waiting in the kernel would not end."""
    limit = time.monotonic() + patience
    pause = 0.001
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= limit:
                raise TuningError(
                    f"Another process{_holders(descriptor)} has been measuring or compiling for {patience:.0f} s"
                    f" and holds {path}.",
                    "Wait for it to end; if it was stopped (ctrl-Z), continue or end it.",
                ) from None
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _holders(descriptor: int) -> str:
    """The processes that hold the lock, as far as the system tells."""
    inode = os.fstat(descriptor).st_ino
    with contextlib.suppress(OSError):
        lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
        found = [f[4] for f in lines if len(f) > 5 and f[1] == "FLOCK" and f[5].rpartition(":")[2] == str(inode)]
        return f" ({', '.join(dict.fromkeys(found))})" if found else ""
    return ""
