"""Arrays in files: .npy and .npz in, .npy and .npz out, whole or not at all. No torch.

read_array(path) = numpy.load(path)      write_arrays({"y": y}, "out.npz") then numpy.load("out.npz")["y"] == y
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array

from .errors import OptionError, OutputError

Array = np.ndarray[Any, np.dtype[Any]]


def read_array(path: str) -> Array:
    """An array from a .npy file, or an error that names the file."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise OptionError(f"There is no file {path}.", "Give a .npy file that numpy.save wrote.") from None
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OptionError(f"{path} is not an array: {reason}", "Write it with numpy.save.") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise OptionError(f"{path} holds several arrays.", "Give a .npy file with one array: numpy.save writes it.")
    return array


def write_arrays(arrays: Mapping[str, Array], where: str) -> list[str]:
    """Write to one .npz file, or as one .npy file each into a folder; returns the paths.

    Every file is complete before the first one appears under its name.
    """
    if where.endswith(".npz"):
        files: dict[str, Callable[[Any], None]] = {where: lambda file: _save_archive(file, arrays)}
    else:
        names = _file_names(list(arrays))
        files = {os.path.join(where, names[key]): _saver(array) for key, array in arrays.items()}
        _make_folder(where)
    waiting: dict[str, str] = {}
    try:
        for path, save in files.items():
            waiting[path] = _write_beside(path, save)
        for path in list(waiting):
            os.replace(waiting.pop(path), path)
    except OSError as error:
        raise _cannot_write(where, error) from error
    finally:
        for temporary in waiting.values():
            Path(temporary).unlink(missing_ok=True)
    return list(files)


def _saver(array: Array) -> Callable[[Any], None]:
    return lambda file: write_array(file, array, allow_pickle=False)


def _save_archive(file: Any, arrays: Mapping[str, Array]) -> None:
    """What numpy.savez writes, but with any name ("file" too)."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_array(member, array, allow_pickle=False)


def _write_beside(path: str, save: Callable[[Any], None]) -> str:
    """Write a temporary file in the folder of `path`; returns its name."""
    handle, temporary = tempfile.mkstemp(prefix=".planish-", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(handle, "wb") as file:
            save(file)
        os.chmod(temporary, 0o666 & ~_umask())
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return temporary


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(where: str, error: OSError) -> OutputError:
    return OutputError(
        f"{where} cannot be written: {error.strerror or error}.", "Give a folder or an .npz file in a writable place."
    )


def _file_names(names: list[str]) -> dict[str, str]:
    """A distinct, harmless file name for each output name."""
    taken: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^\w.-]", "_", name).lstrip(".") or "output"
        candidate, count = stem, 0
        while f"{candidate}.npy" in taken.values():
            count += 1
            candidate = f"{stem}_{count}"
        taken[name] = f"{candidate}.npy"
    return taken
