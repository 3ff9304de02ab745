"""Arrays in files: read with the file's name in every error, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from planish.arrays import read_array, write_arrays
from planish.errors import OptionError, OutputError

ARRAYS = {"logits": np.arange(6, dtype=np.float32).reshape(2, 3), "aux/0": np.ones(2, np.int64), "file": np.zeros(())}


def test_one_npz(tmp_path: Path) -> None:
    path = str(tmp_path / "out.npz")
    assert write_arrays(ARRAYS, path) == [path]
    with np.load(path) as held:
        assert sorted(held) == sorted(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(held[name], array)


def test_a_folder_of_npy(tmp_path: Path) -> None:
    paths = write_arrays(ARRAYS, str(tmp_path / "new" / "out"))
    assert [os.path.basename(p) for p in paths] == ["logits.npy", "aux_0.npy", "file.npy"]
    for path, array in zip(paths, ARRAYS.values(), strict=True):
        np.testing.assert_array_equal(np.load(path), array)
    assert sorted(os.listdir(tmp_path / "new" / "out")) == ["aux_0.npy", "file.npy", "logits.npy"]


def test_names_cannot_leave_the_folder_or_collide(tmp_path: Path) -> None:
    arrays = {"../up": np.zeros(1), ".._up": np.ones(1), "/": np.full(1, 2.0)}
    paths = write_arrays(arrays, str(tmp_path / "out"))
    assert len(set(paths)) == 3
    assert {os.path.dirname(p) for p in paths} == {str(tmp_path / "out")}
    assert [np.load(p)[0] for p in paths] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("where", ["file/out", "file/out.npz"])
def test_a_place_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_arrays(ARRAYS, str(tmp_path / where))


@pytest.mark.parametrize("where", ["out.npz", "out"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_arrays(ARRAYS, str(tmp_path / where))
    before = {path: Path(path).read_bytes() for path in written}

    def full(file: object, *args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("planish.arrays.write_array", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_arrays({name: array * 2 for name, array in ARRAYS.items()}, str(tmp_path / where))
    assert {path: Path(path).read_bytes() for path in written} == before
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == len(written)


@pytest.mark.parametrize(("content", "said"), [(None, "no file"), (b"", "not an array"), (b"hello", "not an array")])
def test_files_that_are_no_arrays(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "x.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OptionError) as caught:
        read_array(str(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(OptionError, match="is not an array"):
        read_array(str(tmp_path / "x.npy"))


def test_an_archive_is_not_one_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(1))
    with pytest.raises(OptionError, match="holds several arrays"):
        read_array(str(tmp_path / "x.npz"))
