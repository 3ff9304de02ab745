"""examples/digits: the held-out digits are the fixed ones, the stored networks read them, the demo ends well."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tree import ROOT

FOLDER = ROOT / "examples" / "digits"


@pytest.fixture(scope="module")
def digits() -> Iterator[dict[str, ModuleType]]:
    """The example's modules, imported as its scripts do."""
    names = ("data", "models", "imagenet")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def held(digits: dict[str, ModuleType]) -> Any:
    return digits["data"].held_out()


def test_held_out_digits_come_from_other_scans(digits: dict[str, ModuleType]) -> None:
    train, held = digits["data"].scans()
    assert len(train.labels) + len(held.labels) == 1797
    from sklearn.datasets import load_digits

    whole = {image.tobytes() for image in (load_digits().images * 15.9375).astype(np.uint8)}
    ours = {image.tobytes() for image in train.images} | {image.tobytes() for image in held.images}
    assert ours == whole
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in held.images}


def test_the_held_out_set_is_fixed_and_checked(
    digits: dict[str, ModuleType], held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = digits["data"]
    assert held.images.shape == (10_000, 32, 32)
    assert held.inputs().dtype == np.float32
    assert 0 <= held.inputs().min() < held.inputs().max() == 1
    assert all(count > 500 for count in np.bincount(held.labels, minlength=10))
    monkeypatch.setattr(data, "HELD_OUT_SEED", data.HELD_OUT_SEED + 1)
    with pytest.raises(RuntimeError, match="digest"):
        data.held_out()


def test_drawing_turns_and_moves_but_keeps_the_digit(digits: dict[str, ModuleType]) -> None:
    """A lone bright scan pixel at the centre of mass stays near the centre, four times as large."""
    data = digits["data"]
    image = np.zeros((1, 8, 8), np.uint8)
    image[0, 3:5, 3:5] = 255
    drawn = data.draw(data.Digits(image, np.array([7])), 200, data.Stream(3))
    assert (drawn.labels == 7).all()
    bright = (drawn.images > 128).astype(float)
    area = bright.sum((1, 2))
    assert 30 < area.min() <= area.max() < 110, "two by two pixels become eight by eight, scaled by 0.85 to 1.15"
    rows = (bright.sum(2) * np.arange(32)).sum(1) / area
    assert (abs(rows - 15.5) < 3).all()
    assert rows.std() > 0.5


@pytest.mark.parametrize(("name", "least"), [("resnet20", 0.98), ("vit", 0.95), ("mobilenet", 0.97)])
def test_stored_networks_read_digits_they_never_saw(
    digits: dict[str, ModuleType], held: Any, name: str, least: float
) -> None:
    model = digits["models"].load(name)
    assert not model.training
    with torch.inference_mode():
        parts = torch.from_numpy(held.inputs()[:600]).split(100)
        logits = torch.cat([model(part) for part in parts])
    assert (logits.argmax(1).numpy() == held.labels[:600]).mean() >= least


def test_stored_weights_are_small_and_float32() -> None:
    from safetensors.numpy import load_file

    files = sorted(FOLDER.glob("*.safetensors"))
    assert [f.stem for f in files] == ["mobilenet", "resnet20", "vit"]
    assert sum(f.stat().st_size for f in files) <= 3_000_000
    assert {str(a.dtype) for f in files for a in load_file(f).values()} == {"float32"}


@pytest.mark.bars
def test_the_demo(tmp_path: Path) -> None:
    """It also judges itself: any number that is off ends it with status 1."""
    command = [sys.executable, str(FOLDER / "demo.py"), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all numbers agree" in done.stdout
    assert len(re.findall(r"\d+\.\d\d%", done.stdout)) >= 2
    assert {p.name for p in tmp_path.glob("*.planish")} >= {"resnet20.planish", "resnet50.planish"}


@pytest.mark.bars
def test_the_networks_in_integers() -> None:
    """Each within 0.2 points of float32, agreeing on 99.5 % of the digits, or the script ends with status 1."""
    done = subprocess.run([sys.executable, str(FOLDER / "integers.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(name in done.stdout for name in ("resnet20", "vit", "mobilenet"))
