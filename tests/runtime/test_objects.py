"""Compiled objects are kept by content, privately, and never believed unless whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest
from runtime.plans import scale_and_shift

from planish.backends.tvm.build import build
from planish.backends.tvm.objects import ObjectCache, default_folder
from planish.backends.tvm.worker import Job, Pool

VERSIONS = {"apache-tvm": "1"}
JOB = Job("k_a", "target", "module")


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "objects", VERSIONS)


def again(cache: ObjectCache, versions: dict[str, str] = VERSIONS) -> ObjectCache:
    """As a later process opens it."""
    return ObjectCache(cache.folder, versions)


def test_objects_outlive_the_process(cache: ObjectCache) -> None:
    assert cache.get(JOB) is None
    cache.put(JOB, b"object")
    assert cache.get(JOB) == again(cache).get(JOB) == b"object"


def test_whatever_differs_is_another_object(cache: ObjectCache) -> None:
    cache.put(JOB, b"object")
    for field in ("symbol", "target", "module"):
        assert cache.get(JOB._replace(**{field: "other"})) is None
    assert again(cache, {"apache-tvm": "2"}).get(JOB) is None


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:-1] + b"X", lambda d: b"", lambda d: b"X" + d[1:]])
def test_damaged_files_are_not_believed(cache: ObjectCache, damage: object) -> None:
    cache.put(JOB, b"object")
    assert cache.folder is not None
    (path,) = cache.folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert again(cache).get(JOB) is None


def test_the_folder_is_private(cache: ObjectCache) -> None:
    assert cache.folder is not None
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    cache.folder.chmod(0o777)
    assert again(cache).folder is not None
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_someone_else_or_a_link_is_not_used(cache: ObjectCache, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "objects")
    assert ObjectCache(tmp_path / "link", VERSIONS).folder is None
    if os.getuid() == 0:
        os.chown(tmp_path / "objects", 12345, -1)
        assert ObjectCache(tmp_path / "objects", VERSIONS).folder is None
    (tmp_path / "file").write_bytes(b"")
    assert ObjectCache(tmp_path / "file" / "objects", VERSIONS).folder is None


def test_the_least_recently_used_go_first(cache: ObjectCache) -> None:
    for i in range(4):
        cache.put(JOB._replace(symbol=str(i)), bytes(68))
        assert cache.folder is not None
        os.utime(max(cache.folder.iterdir(), key=lambda p: p.stat().st_ctime_ns), (i, i))
    again(cache).get(JOB._replace(symbol="0"))  # used now
    kept = ObjectCache(cache.folder, VERSIONS, limit=250)
    assert [kept.get(JOB._replace(symbol=str(i))) is not None for i in range(4)] == [True, False, False, True]


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PLANISH_CACHE_DIR", raising=False)
    assert default_folder() == tmp_path / "planish" / "objects"
    monkeypatch.setenv("PLANISH_CACHE_DIR", "")
    assert default_folder() is None
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine" / "objects"


class Idle(Pool):
    """A pool that must not be asked."""

    def submit(self, job: Job, keep: object = None) -> NoReturn:
        raise AssertionError(f"{job.symbol} was compiled again")


def test_a_second_build_compiles_nothing(cache: ObjectCache) -> None:
    b = scale_and_shift()
    first = build(b.plan, b.weights, b.target, cache=cache)
    second = build(b.plan, b.weights, b.target, cache=again(cache), pool=Idle(1))
    assert first.library == second.library
