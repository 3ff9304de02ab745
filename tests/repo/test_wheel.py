"""The wheel holds the package: every module of the tree, nothing else, and it imports from a bare folder."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from tree import ROOT, files

NOT_PACKAGED = {"tests", "examples", "benchmarks", "docs", ".ci"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build a wheel from a copy of the tree, without network."""
    source, out = tmp_path_factory.mktemp("tmp.x-1"), tmp_path_factory.mktemp("wheel")
    for path in files():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", out, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("planish-*.whl")
    return zipfile.ZipFile(built)


def packaged() -> set[str]:
    """What the wheel should hold: every module of the tree that is package code, and the typing mark."""
    modules = {p.relative_to(ROOT) for p in files(".py") if p.relative_to(ROOT).parts[0] not in NOT_PACKAGED}
    return {Path("planish", m).as_posix() for m in modules} | {"planish/py.typed"}


def test_the_wheel_holds_the_tree(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == packaged()


def test_every_package_has_an_init_and_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {Path(name).parent.as_posix().replace("/", ".") for name in packaged() if name.endswith(".py")}
    assert listed == folders
    assert {f"{package.replace('.', '/')}/__init__.py" for package in listed} <= packaged()


def test_the_wheel_imports_without_the_tree(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import planish, planish.cli; print(planish.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == str(tmp_path / "planish" / "__init__.py")


def test_entry_points(wheel: zipfile.ZipFile) -> None:
    (name,) = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    text = wheel.read(name).decode()
    assert "planish = planish.cli:main" in text
    assert "planish = planish.backends.dynamo:planish_backend" in text


def test_every_dependency_has_an_exact_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    wanted = {_name(line) for line in [*project["dependencies"], *extras] if not line.startswith("planish")}
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert all("==" in line and "+" not in line for line in lines)
    assert wanted <= {_name(line) for line in lines}


def _name(requirement: str) -> str:
    """The distribution's normalized name."""
    name = requirement
    for mark in "=<>!~[; ":
        name = name.split(mark)[0]
    return name.lower().replace("_", "-")
