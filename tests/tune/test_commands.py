"""`planish tune show, export, import` and `planish doctor --rpc`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planish.backends.tvm.tune.database import Attempt, Database, Record
from planish.cli import status

KNOWN = Record("conv_direct", {"tile": "6x2"}, 50e-6, 75e-6, "convolution (float32[1,3,8,8])", 1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "db.sqlite"
    with Database(path) as database:
        database.record("a", KNOWN)
        database.attempt("a", Attempt("conv_direct", {"tile": "6x2"}, 50e-6))
        database.attempt("a", Attempt("conv_direct", {"tile": "9x9"}, None, "the measuring process died (SIGSEGV)"))
    return path


def test_show(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["tune", "show", "--tuning-db", str(path)]) == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if "convolution" in line)
    assert row.split()[-5:] == ["conv_direct", "tile=6x2", "50.0", "75.0", "1.50"]
    assert "1 kernels of 2 tried, 1 failed" in said
    assert "1 x the measuring process died (SIGSEGV)" in said


def test_show_for_machines(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["tune", "show", "--tuning-db", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["file"] == str(path)
    assert said["records"][0]["choice"] == {"tile": "6x2"}
    assert said["attempts"] == 2
    assert [entry["why"] for entry in said["failed"]] == ["the measuring process died (SIGSEGV)"]


def test_export_and_import(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, copy = tmp_path / "known.jsonl", tmp_path / "copy.sqlite"
    assert status(["tune", "export", str(file), "--tuning-db", str(path)]) == 0
    assert f"{file}: 3 entries" in capsys.readouterr().out
    assert status(["tune", "import", str(file), "--tuning-db", str(copy)]) == 0
    assert "1 of 1 kernels taken, 2 attempts" in capsys.readouterr().out
    with Database(copy) as database:
        assert database.records() == [("a", KNOWN)]
    assert status(["tune", "import", str(file), "--tuning-db", str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(file), "records": 1, "attempts": 2, "taken": 0}


def test_export_to_standard_output(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["tune", "export", "-", "--tuning-db", str(path)]) == 0
    assert [json.loads(line).get("kind") for line in capsys.readouterr().out.splitlines()] == [None, "record"] + [
        "attempt"
    ] * 2


@pytest.mark.parametrize("command", [["show"], ["export", "-"]])
def test_what_is_not_there_is_not_made(tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.sqlite"
    assert status(["tune", *command, "--tuning-db", str(path)]) == 1
    assert "There is no tuning database at" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe\x00", "it is no text"),
        (b"hello\n", "line 1: "),
        (b'{"format": "planish tuning", "version": 1}\n{"kind": "record", "key": "b"}\n', "line 2: "),
    ],
)
def test_a_wrong_import_changes_nothing(
    path: Path, tmp_path: Path, content: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "import.jsonl"
    if content is not None:
        file.write_bytes(content)
    assert status(["tune", "import", str(file), "--tuning-db", str(path)]) == 1
    assert said in capsys.readouterr().err
    with Database(path) as database:
        assert database.records() == [("a", KNOWN)]


def test_nothing_is_kept_where_there_is_no_cache(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "known.jsonl"
    assert status(["tune", "export", str(file), "--tuning-db", str(path)]) == 0
    monkeypatch.setenv("PLANISH_CACHE_DIR", "")
    for command in (["show"], ["import", str(file)]):
        assert status(["tune", *command]) == 1
        assert "Nothing is kept" in capsys.readouterr().err


def test_doctor_names_the_hop_that_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("planish.doctor._can_compile", lambda: False)  # that is not asked here
    assert status(["doctor", "--rpc", "127.0.0.1:9/board", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    found = next(check for check in checks if check["name"] == "127.0.0.1:9/board")
    assert found["ok"] is False
    assert "No tracker answers at 127.0.0.1:9: Connection refused" in found["said"]
    assert "rpc_tracker" in found["todo"]
