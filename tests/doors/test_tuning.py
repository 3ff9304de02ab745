"""Tuning from every door: a small network, a short search, a database of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close_to_reference
from little_search import PLENTY, little_search
from torch import nn

import planish
from planish.backends.tvm.tune.database import Database, Record
from planish.cli import status
from planish.errors import OptionError, TuningDatabaseError

NET = """
import torch

def net():
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(16, 48, 3, padding=1), torch.nn.Conv2d(48, 32, 3, stride=2)
    return torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.Hardswish())
"""
X = "input=f32[1,16,20,24]"


def net() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(16, 48, 3, padding=1), nn.Conv2d(48, 32, 3, stride=2)
    return nn.Sequential(first, nn.ReLU(), second, nn.Hardswish()).eval()


def inputs() -> torch.Tensor:
    return torch.randn(1, 16, 20, 24, generator=torch.Generator().manual_seed(1))


def compiled(path: Path | None, **options: Any) -> Any:
    return planish.compile(net(), inputs(), threads=2, tuning_db=path, **options)


def assert_right(model: Any) -> None:
    x = inputs()
    with torch.no_grad():
        assert_close_to_reference(model(x), net().double()(x.double()), net()(x))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[tuple[str, int, int]]]:
    """A database, the network that was tuned with it, and the progress that was reported."""
    path = tmp_path_factory.mktemp("tuning") / "tuning.sqlite"
    calls: list[tuple[str, int, int]] = []
    with little_search(6):
        return path, compiled(path, tune="10m", progress=lambda *call: calls.append(call)), calls


def test_a_tuned_model_is_right_and_says_what_was_done(tuned: Any) -> None:
    path, model, calls = tuned
    assert_right(model)
    done = model.manifest["tuning"]
    assert (done["budget"], done["interrupted"]) == (PLENTY, False)
    assert done["tasks"] >= 2
    assert done["tried"] >= 7 * done["tasks"]
    assert any(what.startswith("tuning: ") and total == PLENTY for what, _, total in calls)
    with Database(path) as database:
        assert len(database.all_attempts()) == done["tried"]
        assert database.records()


def test_a_database_is_used_without_measuring(tuned: Any) -> None:
    path, _, _ = tuned
    model = compiled(path)
    done = model.manifest["tuning"]
    assert (done["budget"], done["tried"]) == (0.0, 0)
    assert done["known"] >= 1
    assert_right(model)


def test_an_unknown_database_knows_nothing(tmp_path: Path) -> None:
    done = compiled(tmp_path / "new.sqlite").manifest["tuning"]
    assert (done["known"], done["kept"]) == (0, 0)


def test_without_a_database_nothing_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a database was opened")

    monkeypatch.setattr(Database, "__init__", refuse)
    assert compiled(None).manifest["tuning"] is None


def test_what_the_database_knows_is_compiled_recorded_and_shown(
    tuned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every record is replaced by one for another choice: that is what must be in the file."""
    path = tmp_path / "changed.sqlite"
    with Database(tuned[0]) as old, Database(path) as new:
        choices = {
            (key, a.template): a.choice for key, a in old.all_attempts() if a.template == "conv_direct" and a.seconds
        }
        for (key, template), choice in choices.items():
            new.record(key, Record(template, {**choice, "order": "rows", "tile": "1x1"}, 1e-6, 3e-6))
    model = compiled(path)
    kernels = [k for k in model.manifest["calls"]["kernels"].values() if k["tuned"]]
    assert not kernels  # no space has tiles that small: such records are ignored
    with Database(path) as new:
        for (key, template), choice in choices.items():
            new.record(key, Record(template, choice, 1e-6, 3e-6), replace=True)
    model = compiled(path)
    defaults = [k["choice"] for k in compiled(None).manifest["calls"]["kernels"].values()]
    changed = [choice for choice in choices.values() if choice not in defaults]
    kernels = [k for k in model.manifest["calls"]["kernels"].values() if k["tuned"]]
    assert [k["tuned"] for k in kernels] == [{"seconds": 1e-6, "default_seconds": 3e-6}] * len(changed)
    assert_right(model)
    model.save(tmp_path / "net.planish")
    assert status(["inspect", str(tmp_path / "net.planish")]) == 0
    shown = capsys.readouterr().out
    assert "the tuning database knows" in shown
    assert shown.count("3.00") >= len(changed)
    assert "tile=" in shown


def test_control_c_keeps_what_was_found(tmp_path: Path) -> None:
    def stop(what: str, _done: int, _total: int) -> None:
        if what.startswith("tuning"):
            raise KeyboardInterrupt

    model = compiled(tmp_path / "t.sqlite", tune=600.0, progress=stop)
    done = model.manifest["tuning"]
    assert done["interrupted"]
    assert done["tried"] >= 1
    assert_right(model)


def test_only_this_machine_can_be_measured(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"this machine is x86_64|this machine lacks") as caught:
        planish.compile(net(), inputs(), target="aarch64:neoverse-v1", tune=1.0, tuning_db=tmp_path / "t.sqlite")
    assert "give its database as tuning_db" in caught.value.todo


def test_a_database_that_is_none_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("my notes " * 100)
    with pytest.raises(TuningDatabaseError):
        compiled(path)
    assert path.read_text().startswith("my notes")


def test_planish_tune_writes_model_and_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuned_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    db, model = ["--tuning-db", "t.sqlite"], ["tuned_net:net", "--eval", "--input", X]
    with little_search():
        assert status(["tune", "--tune", "10m", *model, *db, "-o", "net.planish", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tuning"]["tried"] > 0
    assert planish.load("net.planish").manifest["tuning"] == said["tuning"]
    assert status(["compile", *model, *db, "-o", "again.planish"]) == 0
    assert "the tuning database knows" in capsys.readouterr().out
    assert status(["tune", "tuned_net:net", "--tune", "0.1x"]) == 1
    assert "'0.1x' is not a time" in capsys.readouterr().err


def test_torch_compile_tunes(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    model = torch.compile(net(), backend="planish", options={"tune": PLENTY, "tuning_db": str(path), "threads": 2})
    x = inputs()
    with torch.no_grad(), little_search():
        assert np.isfinite(model(x).numpy()).all()
        assert_close_to_reference(model(x), net().double()(x.double()), net()(x))
    with Database(path) as database:
        assert database.all_attempts()
