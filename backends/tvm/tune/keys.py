"""The identity of a tuning task: equal keys mean that a choice measured for one is right and as fast for the other.

key = sha256(what is computed + on what machine + with what emitters and versions)

Nothing of a model's names is in it, so identical layers, of one model or of several, share a key. Whatever might
change a kernel's machine code or its time is in it: a record never speaks of code that is not made any more.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..kernel_table import task_key as content_of
from ..plan import Value
from ..target import Target
from ..template import Task

_BACKEND = Path(__file__).parent.parent
_ROOTS = ("kernels/templates.py", "generic/metaschedule.py", "codegen_process.py", "compat.py")
"""What decides which code is made: the templates with all that they import, and how it is compiled."""


def task_key(task: Task, machine: str | None = None) -> str:
    """The key of a task, the same in every process.

    `machine` names the CPU that measures, this one by default; a device elsewhere says its own name.
    """
    target = task.target
    parts = [
        canonical(content_of(task)),
        task.numerics,
        f"{target.triple} {target.cpu} {' '.join(sorted(target.features))} lanes {target.lanes}",
        f"threads {target.threads}",
        cpu_model() if machine is None else machine,
        emitters(),
        versions(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def describe(task: Task) -> str:
    """The task in one line for people: its kind, operators, shapes and target."""
    body = (node for node in task.region.body.nodes if node.op == "call_function")
    calls = "+".join(str(node.target).removeprefix("aten.").split(".")[0] for node in body)
    inputs = ", ".join(_type(value) for value in task.inputs)
    return f"{calls} ({inputs}) -> {_type(task.output)} on {_machine(task.target)}"


def canonical(value: Any) -> str:
    """Text that is equal exactly for equal plain values; sets in order. TypeError for what has no stable text."""
    if isinstance(value, tuple | list):
        return f"({','.join(canonical(v) for v in value)})"
    if isinstance(value, frozenset | set):
        return f"{{{','.join(sorted(canonical(v) for v in value))}}}"
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    raise TypeError(f"{type(value).__name__} {value!r} has no canonical text")


def cpu_model(cpuinfo: str | None = None) -> str:
    """The CPU's name as the system tells it: equal features do not mean equal caches and clocks."""
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return platform.processor()
    said: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        said.setdefault(name.strip().lower(), value.strip())
    names = ("model name", "cpu family", "model", "stepping", "cpu implementer", "cpu part", "cpu variant")
    return " ".join(f"{name}={said[name]}" for name in names if said.get(name))


@functools.cache
def versions() -> str:
    """Of planish, TVM and LLVM."""
    from .... import __version__
    from ..compat import VERSIONS, global_func

    llvm = global_func("target.llvm_version_major")()
    return " ".join([f"planish {__version__}", *(f"{n} {v}" for n, v in sorted(VERSIONS.items())), f"llvm {llvm}"])


@functools.cache
def emitters() -> str:
    """Digest of all the code that emits kernels: comments and docstrings do not count."""
    digest = hashlib.sha256()
    for path in sorted(_reachable([_BACKEND / root for root in _ROOTS])):
        digest.update(f"{path.relative_to(_BACKEND).as_posix()}\n{code_text(path.read_text('utf-8'))}\n".encode())
    return digest.hexdigest()


def code_text(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(statement: ast.AST) -> bool:
    """A string that stands alone."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _reachable(roots: list[Path]) -> set[Path]:
    """The files of the backend that `roots` import, directly or not."""
    found: set[Path] = set()
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_imported(path))
    return found


def _imported(path: Path) -> Iterator[Path]:
    """Files of the backend that a file imports by relative names, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        candidates = [folder.with_suffix(".py")] if node.module else []
        candidates += [folder / f"{alias.name}.py" for alias in node.names]
        yield from (c for c in candidates if c.is_relative_to(_BACKEND) and c.is_file())


def _type(value: Value) -> str:
    return f"{value.dtype}[{','.join(map(str, value.shape))}]{'' if value.layout == 'plain' else value.layout}"


def _machine(target: Target) -> str:
    return f"{target.cpu}, {target.threads} thread(s)"
