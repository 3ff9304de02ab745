"""The tuning database: what it keeps, what it refuses, and that neither kills nor other writers harm it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from planish.backends.tvm.tune.database import Attempt, Database, Record, choice_text, default_path
from planish.errors import TuningDatabaseError

TILED = {"tile": "6x2", "rows": 4, "ahead": True}


def record(seconds: float, template: str = "direct", at: float = 1.0) -> Record:
    return Record(template, TILED, seconds, 2.0, "a convolution", at)


def test_what_is_recorded_is_found_again_by_another_process_opening_the_file(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Database(path) as database:
        assert database.best("k") is None
        assert database.record("k", record(1.5))
        database.attempt("k", Attempt("direct", TILED, None, "it crashed", 3.0))
        database.attempt("k", Attempt("winograd", {}, 0.5, "", 4.0))
    with Database(path) as database:
        assert database.best("k") == record(1.5)
        assert database.best("l") is None
        tried = sorted(database.attempts("k"), key=lambda a: a.at)
        assert tried == [Attempt("direct", TILED, None, "it crashed", 3.0), Attempt("winograd", {}, 0.5, "", 4.0)]
        assert database.attempts("l") == []


def test_the_faster_record_stays_unless_it_is_replaced() -> None:
    with Database(None) as database:
        assert database.record("k", record(1.0))
        assert not database.record("k", record(1.0, "other"))
        assert not database.record("k", record(1.1))
        assert database.record("k", record(0.9, "faster"))
        assert database.best("k") == record(0.9, "faster")
        assert database.record("k", record(5.0, "confirmed"), replace=True)
        assert database.best("k") == record(5.0, "confirmed")


def test_of_equal_choices_the_last_attempt_is_kept() -> None:
    with Database(None) as database:
        database.attempt("k", Attempt("t", {"a": 1, "b": 2}, None, "timeout", 1.0))
        database.attempt("k", Attempt("t", {"b": 2, "a": 1}, 0.25, "", 2.0))
        assert database.attempts("k") == [Attempt("t", {"a": 1, "b": 2}, 0.25, "", 2.0)]


def test_the_text_of_a_choice_does_not_depend_on_order_and_tells_kinds_apart() -> None:
    assert choice_text({"b": 1, "a": "x"}) == choice_text({"a": "x", "b": 1}) == '{"a":"x","b":1}'
    assert len({choice_text({"a": value}) for value in (1, True, "1")}) == 3


def test_records_come_oldest_first() -> None:
    with Database(None) as database:
        for key, at in (("b", 2.0), ("a", 3.0), ("c", 1.0)):
            database.record(key, record(1.0, at=at))
        assert [key for key, _ in database.records()] == ["c", "b", "a"]


def test_a_merge_that_fails_changes_nothing() -> None:
    with Database(None) as database:
        with pytest.raises(TypeError):
            database.merge([("k", record(1.0)), ("l", Record("t", {"x": object()}, 1.0, 1.0))], [])  # type: ignore[dict-item]
        assert database.best("k") is None
        assert database.record("k", record(1.0))


def test_the_default_lies_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path / "cache"))
    path = default_path()
    assert path == tmp_path / "cache" / "tuning.sqlite"
    Database(path).close()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    monkeypatch.setenv("PLANISH_CACHE_DIR", "")
    assert default_path() is None


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()


def newer(path: Path) -> None:
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()


def truncated(path: Path) -> None:
    Database(path).close()
    path.write_bytes(path.read_bytes()[:5000])


def overwritten(path: Path) -> None:
    with Database(path) as database:
        for number in range(200):
            database.record(f"key {number}", record(1.0))
    data = bytearray(path.read_bytes())
    data[8192:12288] = random.Random(1).randbytes(4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_text("my notes, " * 500), "is damaged or is none"),
        (foreign, "is a database of another program"),
        (newer, "has version 7 and was written by a newer planish; this one has 1"),
        (truncated, "is damaged"),
        (overwritten, "is damaged"),
    ],
)
def test_a_file_that_is_not_ours_or_not_whole_is_refused_and_left_alone(
    tmp_path: Path, spoil: object, said: str
) -> None:
    path = tmp_path / "db.sqlite"
    spoil(path)  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(TuningDatabaseError, match=said) as refusal:
        Database(path)
    assert str(path) in refusal.value.what
    assert "never deletes" in refusal.value.todo
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TuningDatabaseError, match="cannot be opened"):
        Database(tmp_path / "file" / "db.sqlite")


def test_a_path_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TuningDatabaseError, match="cannot be used"):
        Database(tmp_path)


def test_a_writer_that_does_not_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    Database(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Database(path, patience=0.1) as database, pytest.raises(TuningDatabaseError, match="locked by another"):
        database.record("k", record(1.0))
    other.close()


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Database(path, patience=0.1) as database:
        database.record("k", record(1.0))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert database.best("k") == record(1.0)
        other.close()


def test_threads_share_a_database() -> None:
    with Database(None) as database:

        def write(number: int) -> None:
            for i in range(50):
                database.record(f"{number} {i}", record(1.0))

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(database.records()) == 200


WRITER = """
import sys
from planish.backends.tvm.tune.database import Attempt, Database, Record
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Database(path) as database:
    print("open", flush=True)
    for i in range(count):
        database.record(f"{name} {i}", Record("t", {"i": i}, 1.0, 1.0))
        database.record("shared", Record(name, {"i": i}, 1.0 / (1 + i), 1.0))
        database.attempt(f"{name} {i}", Attempt("t", {"i": i}, 1.0))
        print(i, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_create_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "db.sqlite"
    writers = [writer(path, name, 40) for name in "abc"]
    assert [process.wait(120) for process in writers] == [0, 0, 0]
    for process in writers:
        process.communicate()
    with Database(path) as database:
        found = dict(database.records())
        assert {key for key in found if key != "shared"} == {f"{name} {i}" for name in "abc" for i in range(40)}
        assert found["shared"].seconds == 1.0 / 40
        assert len(database.all_attempts()) == 120


def test_a_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    done: dict[str, int] = {}
    for number in range(4):
        name = f"run{number}"
        process = writer(path, name, 10**9)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        seen = random.Random(number).randrange(2, 40)
        assert [process.stdout.readline() for _ in range(seen)] == [f"{i}\n" for i in range(seen)]
        os.kill(process.pid, signal.SIGKILL)
        done[name] = seen + len(process.communicate()[0].split("\n")[:-1])
    assert sum(done.values()) > 4
    with Database(path) as database:
        found = {key for key, _ in database.records()}
        for name, count in done.items():
            assert {f"{name} {i}" for i in range(count)} <= found
            assert f"{name} {count + 1}" not in found  # at most the one under way
