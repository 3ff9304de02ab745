"""Arrays in files: .npy and .npz in, .npy and .npz out, whole or not at all. No torch.

read_array(path) = numpy.load(path)      write_arrays({"y": y}, "out.npz") then numpy.load("out.npz")["y"] == y
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.format import write_array

from .backends.tvm.files import write_atomically
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


def read_arrays(path: str) -> dict[str, Array]:
    """All arrays of a .npz file by name, or an error that names the file."""
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except FileNotFoundError:
        raise OptionError(f"There is no file {path}.", "Give a .npz file that numpy.savez wrote.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OptionError(f"{path} holds no arrays: {reason}", "Write it with numpy.savez.") from error


def write_arrays(arrays: Mapping[str, Array], where: str) -> list[str]:
    """Write to one .npz file, or as one .npy file each into a folder; returns the paths. No file is half-written."""
    if where.endswith(".npz"):
        write_atomically(where, lambda file: _save_archive(file, arrays))
        return [where]
    _make_folder(where)
    paths = [os.path.join(where, name) for name in _file_names(list(arrays))]
    for path, array in zip(paths, arrays.values(), strict=True):
        write_atomically(path, partial(write_array, array=array, allow_pickle=False))
    return paths


def _save_archive(file: Any, arrays: Mapping[str, Array]) -> None:
    """What numpy.savez writes, but with any name ("file" too)."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_array(member, array, allow_pickle=False)


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Give a folder, or an .npz file, in a writable place.",
        ) from error


def _file_names(names: Sequence[str]) -> list[str]:
    """A distinct, harmless file name for each output name."""
    taken: list[str] = []
    for name in names:
        stem = re.sub(r"[^\w.-]", "_", name).lstrip(".") or "output"
        candidate, count = stem, 0
        while f"{candidate}.npy" in taken:
            count += 1
            candidate = f"{stem}_{count}"
        taken.append(f"{candidate}.npy")
    return taken
