"""Is this machine ready? Versions, CPU, threads, linker, and a small model from capture to its first result.

healthy = all(check.ok is not False for check in examine())
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from .errors import PlanishError


@dataclass(frozen=True)
class Check:
    """One finding. `ok` is None for what is merely absent: compiling needs it, running artifacts does not."""

    name: str
    ok: bool | None
    said: str
    todo: str = ""

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        return asdict(self)


def examine(
    path: str | None = None, rpc: str | None = None, target: str = "native", threads: int | None = None
) -> Iterator[Check]:
    """Check the environment, and an artifact and a device if they are given."""
    yield _python()
    yield from _distributions()
    yield from _guarded("cpu", _cpu)
    if _can_compile():
        yield from _guarded("target", _target)
        yield from _guarded("linker", _linker)
        yield from _guarded("compile", _tiny_model)
    if rpc is not None:
        yield from _guarded(rpc, lambda: _device(rpc, target, threads))
    if path is not None:
        yield from _guarded(path, lambda: _artifact(path))


def satisfies(version: str, ranges: str) -> bool:
    """Whether a release lies in ranges such as ">=0.27.0.post1,<0.28"; local labels ("+cpu") do not count."""
    have = _numbers(version.partition("+")[0])
    for part in filter(None, (p.strip() for p in ranges.split(","))):
        sign, bound = re.fullmatch(r"([<>=!~]=?)\s*(.+)", part).groups()  # type: ignore[union-attr]
        want = _numbers(bound)
        length = max(len(have), len(want))
        left, right = (n + (0,) * (length - len(n)) for n in (have, want))
        if not {"==": left == right, ">=": left >= right, "<=": left <= right, "<": left < right, ">": left > right}[
            sign
        ]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version))


def _python() -> Check:
    said = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    ok = sys.version_info >= (3, 11) and platform.system() == "Linux"
    return Check("python", ok, said, "" if ok else "Use Python 3.11 or newer on Linux.")


def _distributions() -> Iterator[Check]:
    """Every dependency of the base install and of the compiler extra, against its tested range."""
    try:
        requirements = metadata.requires("planish") or ()
    except metadata.PackageNotFoundError:
        yield Check("planish", None, "runs from its source tree; versions are not checked", "pip install -e .")
        return
    for requirement in requirements:
        spec, _, marker = requirement.partition(";")
        if "extra" in marker and not re.search(r"extra\s*==\s*['\"]compile['\"]", marker):
            continue
        name, ranges = re.fullmatch(r"([\w.-]+)\s*(.*)", spec.strip()).groups()  # type: ignore[union-attr]
        yield _distribution(name, ranges, optional=bool(marker.strip()))


def _distribution(name: str, ranges: str, optional: bool) -> Check:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        todo = "Only compiling needs it: pip install 'planish[compile]'" if optional else "pip install planish"
        return Check(name, None if optional else False, "not installed", todo)
    ok = satisfies(version, ranges)
    return Check(name, ok, f"{version} (tested: {ranges})", "" if ok else f"pip install '{name}{ranges}'")


def _can_compile() -> bool:
    return all(_installed(name) for name in ("torch", "apache-tvm", "networkx", "ziglang"))


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _guarded(name: str, check: Callable[[], str]) -> Iterator[Check]:
    """A check that says something, or fails with an error."""
    try:
        yield Check(name, True, check())
    except PlanishError as error:
        yield Check(name, False, error.what, error.todo)
    except Exception as error:
        yield Check(name, False, f"{type(error).__name__}: {error}", "Report this with the output of planish doctor.")


def _cpu() -> str:
    from .backends.tvm.cpu import architecture, available_threads, machine_flags

    arch, flags = architecture(), machine_flags()
    wide = (
        "AVX-512" if "avx512f" in flags else "AVX2" if {"avx2", "fma"} <= flags else "NEON" if "asimd" in flags else ""
    )
    if not wide:
        raise PlanishError(f"This {arch} CPU has neither AVX2, AVX-512 nor NEON.", "planish makes no code for it.")
    return f"{arch} with {wide}, {available_threads()} core(s) for this process"


def _target() -> str:
    from .backends.tvm.target import parse_target

    target = parse_target("native")
    return f"LLVM calls this CPU {target.cpu}: {target.lanes} float32 lanes, {target.registers} vector registers"


def _linker() -> str:
    import subprocess

    from .backends.tvm.link import zig_path

    zig = zig_path()
    done = subprocess.run([str(zig), "version"], capture_output=True, text=True, check=True)
    return f"zig {done.stdout.strip()} links, no system compiler is needed"


def _tiny_model() -> str:
    """Compile, save, load and run two layers; compare with PyTorch."""
    import tempfile
    from pathlib import Path

    import torch

    from . import compile as compile_model
    from . import load

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU()).eval()
    x = torch.randn(1, 3, 8, 8)
    with tempfile.TemporaryDirectory(prefix="planish-doctor-") as folder:
        path = Path(folder) / "tiny.planish"
        compile_model(model, (x,), progress=False).save(path)
        with torch.no_grad():
            difference = float((load(path)(x) - model(x)).abs().max())
    if not difference < 1e-5:
        raise PlanishError(
            f"A tiny model differs from PyTorch by {difference:.3g}.", "Report this: it must not happen."
        )
    return f"a tiny model compiles, saves, loads and agrees with PyTorch (difference {difference:.1g})"


def _artifact(path: str) -> str:
    """Load the file and run the vector inside."""
    from . import load

    compiled = load(path)
    made_for = compiled.manifest["target"]["cpu"]
    if compiled.manifest["selftest"] is None:
        return f"made for {made_for}, loads here; it has no self-test, for it was made on another kind of machine"
    return f"made for {made_for}, loads here, and its self-test agrees (difference {compiled.selftest():.1g})"


def _device(rpc: str, target: str, threads: int | None) -> str:
    """Go to a device hop by hop: tracker, server, session, upload, run."""
    from .backends.tvm.target import parse_target
    from .backends.tvm.tune.rpc import examine as examine_device
    from .backends.tvm.worker import shared_pool

    found = examine_device(rpc, parse_target(target, threads), shared_pool())
    return f"tracker and server answer, code for {target} runs there: {found.model}, {found.threads} thread(s)"
