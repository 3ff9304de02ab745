"""Imports point one way: ir <- passes, ir <- backends; TVM in one folder; the runtime without torch and TVM."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tree import ROOT, files

PACKAGE = [p for p in files(".py") if p.relative_to(ROOT).parts[0] in ("ir", "passes", "backends") or p.parent == ROOT]


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Absolute names of the modules a file imports; relative ones start with `planish`."""
    package = ("planish", *path.relative_to(ROOT).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def offenders(folders: tuple[str, ...], banned: tuple[str, ...]) -> list[str]:
    """Files in `folders` that import one of `banned` or a part of it."""
    found = []
    for path in PACKAGE:
        where = "/".join(path.relative_to(ROOT).parts)
        if where.startswith(folders):
            hits = {n for n in imports(path) if any(n == b or n.startswith(b + ".") for b in banned)}
            found += [f"{where} imports {name}" for name in sorted(hits)]
    return found


def test_ir_knows_neither_passes_nor_backends() -> None:
    assert not offenders(("ir/",), ("planish.passes", "planish.backends"))


def test_passes_do_not_know_backends() -> None:
    assert not offenders(("passes/",), ("planish.backends",))


def test_backends_do_not_know_passes_apart_from_the_dynamo_door() -> None:
    found = offenders(("backends/",), ("planish.passes",))
    assert not [line for line in found if not line.startswith("backends/dynamo")]


def test_only_one_folder_imports_tvm() -> None:
    others = tuple("/".join(p.relative_to(ROOT).parts) for p in PACKAGE if "tvm" not in p.relative_to(ROOT).parts[:-1])
    assert others
    assert not offenders(others, ("tvm",))


def test_only_one_folder_imports_onnx() -> None:
    others = tuple("/".join(p.relative_to(ROOT).parts) for p in PACKAGE if p.parent != ROOT / "backends" / "onnx")
    assert others
    assert not offenders(others, ("onnx",))


def test_no_bare_imports() -> None:
    bare = {"ir", "passes", "backends"}
    assert not [str(p) for p in files(".py") if {n.split(".")[0] for n in imports(p)} & bare]


def test_imports_are_resolved_as_python_does() -> None:
    assert "planish.ir.program" in imports(ROOT / "passes" / "base.py")
    assert "planish.errors" in imports(ROOT / "ir" / "signature.py")


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    probe = f"{code}\nimport sys, json\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_planish_is_light() -> None:
    extra = loaded_after("import planish") - loaded_after("")
    assert not extra & {"torch", "tvm", "tvm_ffi", "numpy", "networkx", "typer", "rich"}


def test_import_planish_takes_less_than_a_tenth_of_a_second() -> None:
    """By the interpreter's own clock of the import alone; the best of three, so that a busy machine passes."""
    best = 1e9
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import planish"], capture_output=True, text=True, check=True
        )
        line = next(x for x in done.stderr.splitlines() if x.split("|")[-1].strip() == "planish")
        best = min(best, int(line.split("|")[1]))
    assert best <= 100_000


@pytest.mark.parametrize("module", ["runtime", "artifact"])
def test_the_runtime_imports_neither_torch_nor_tvm(module: str) -> None:
    extra = loaded_after(f"import planish.backends.tvm.{module}")
    assert "planish" in extra
    assert not extra & {"torch", "tvm"}


def test_the_command_starts_without_torch() -> None:
    assert not loaded_after("import planish.cli") & {"torch", "tvm", "networkx"}


def test_tests_of_ir_and_passes_are_collected_without_tvm() -> None:
    """In an interpreter in which TVM cannot be imported; `conftest.py` hides it while they run."""
    folders = [str(ROOT / "tests" / folder) for folder in ("ir", "passes", "quantize")]
    code = (
        "import sys, pytest\n"
        "sys.modules['tvm'] = sys.modules['tvm_ffi'] = None\n"
        f"sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', *{folders!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
