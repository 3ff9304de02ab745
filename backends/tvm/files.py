"""Files: written whole or not at all, read only if they are what they should be.

write_atomically(path, fill): path is afterwards either what `fill` wrote, complete and synced, or what it was before.
Imports neither torch nor TVM.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ...errors import ArtifactError, OptionError, OutputError


def write_atomically(path: str | os.PathLike[str], fill: Callable[[BinaryIO], None], sync: bool = True) -> None:
    """Call `fill` with a new file and give it the name `path` once it is safely stored (or only written: not `sync`).

    Raises OutputError if that cannot be done; no part of a file is left behind.
    """
    check_path(path)
    target = Path(os.path.realpath(path))
    with _output_errors(path):
        mode = _mode(target)
        with _unnamed_file(target) as (file, give_name):
            fill(file)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if sync:
                os.fsync(file.fileno())
            give_name()
        if sync:
            _sync_folder(target.parent)


@contextlib.contextmanager
def _unnamed_file(target: Path) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """A new file beside `target`, and what makes it `target`; without that it is gone, whatever ends the process.

    Where the file system knows no nameless files it has a hidden name, which only a kill in the middle leaves behind.
    """
    hidden = str(target.parent / f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        handle = os.open(target.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        nameless = True
    except (OSError, AttributeError):
        handle = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        nameless = False

    def give_name() -> None:
        if nameless:  # a link cannot replace a file, so that for a moment there is a hidden name
            # Python follows the link in /proc only where it calls linkat, hence the descriptor that is not used
            os.link(f"/proc/self/fd/{handle}", hidden, src_dir_fd=handle, follow_symlinks=True)
        os.replace(hidden, target)

    try:
        with os.fdopen(handle, "wb") as file:
            yield file, give_name
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(hidden)
        raise


def map_file(path: str | os.PathLike[str]) -> mmap.mmap:
    """Map a regular file; pages are shared with every other reader. Raises ArtifactError."""
    check_path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            kind = "a folder" if os.path.isdir(path) else "not a regular file"
            raise ArtifactError(f"{path} is {kind}.", "Give the path of a .planish file.")
        with open(path, "rb") as file:
            return map_descriptor(file.fileno(), str(path))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist.", "Check the path, or compile the model first.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(f"{path} cannot be read: {reason}.", "Check the path and its permissions.") from None


def check_path(path: object) -> None:
    """Refuse what is no path; a number would be taken for a descriptor, and that closed."""
    if not isinstance(path, str | os.PathLike):
        raise OptionError(f"{path!r} is not a path.", "Give the name of a file, as a string or a pathlib.Path.")


def map_descriptor(descriptor: int, name: str) -> mmap.mmap:
    """Map an open file. Private and writable, since DLPack refuses to share read-only memory; nobody writes it."""
    if os.fstat(descriptor).st_size == 0:
        raise ArtifactError(f"{name} is empty.", "Copy the file again from where it was made.")
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)


def anonymous_file(fill: Callable[[BinaryIO], None]) -> mmap.mmap:
    """Map a file without a name, that ends with the mapping."""
    with _output_errors("an anonymous file"):
        if hasattr(os, "memfd_create"):
            file: BinaryIO = os.fdopen(os.memfd_create("planish", os.MFD_CLOEXEC), "w+b")
        else:
            file = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
        with file:
            fill(file)
            file.flush()
            return map_descriptor(file.fileno(), "an anonymous file")


@contextlib.contextmanager
def _output_errors(path: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Check that the folder exists, that it may be written and that the disk has room.",
        ) from None


def _mode(target: Path) -> int:
    """Permissions of the file that will be replaced, or those of a new one; refuses what is not a file."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
    if not stat.S_ISREG(mode):
        kind = "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"
        raise OutputError(f"{target} cannot be written: it {kind}.", "Give the path of a file.")
    if not os.access(target, os.W_OK):
        raise PermissionError(13, "Permission denied")
    return stat.S_IMODE(mode)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
