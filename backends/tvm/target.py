"""The machine that code is made for. Found through LLVM; knows vector width, registers and features.

parse_target("native") = this CPU as LLVM sees it      parse_target("haswell"), parse_target("aarch64:neoverse-v1")
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import TargetError
from .cpu import ARCHITECTURES, architecture, relevant
from .threads import check_threads


@dataclass(frozen=True)
class Target:
    """A CPU: LLVM `triple` and `cpu`, the `features` it has, and how many `threads` plans are made for.

    `features` are those that emitted code may use: what an artifact requires of the machine that loads it.
    """

    triple: str
    cpu: str
    features: frozenset[str]
    threads: int

    @property
    def arch(self) -> str:
        """Architecture: "x86_64" or "aarch64"."""
        return self.triple.split("-")[0]

    @property
    def lanes(self) -> int:
        """float32 lanes of one vector register: 16 (AVX-512), 8 (AVX2), 4 (NEON)."""
        return 16 if "avx512f" in self.features else 8 if "avx2" in self.features else 4

    @property
    def registers(self) -> int:
        """Architectural vector registers: 32 (AVX-512, NEON), 16 (AVX2 and older)."""
        return 32 if self.lanes == 16 or self.arch == "aarch64" else 16

    @property
    def block(self) -> int:
        """Channel block of blocked layouts: at least 8, so that NEON uses two registers a block."""
        return max(8, self.lanes)

    def tvm_target(self) -> Any:
        """TVM's target: the cpu, corrected by what the machine has more or less than the cpu's name says."""
        from .compat import tvm

        named = _cpu_features(self.triple, self.cpu)
        mattr = [f"+{f}" for f in sorted(self.features - named)] + [f"-{f}" for f in sorted(named - self.features)]
        spec: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        return tvm.target.Target({**spec, "mattr": mattr} if mattr else spec)

    def to_json(self) -> dict[str, Any]:
        """Plain dict for the manifest."""
        return {"triple": self.triple, "cpu": self.cpu, "features": sorted(self.features), "threads": self.threads}

    @staticmethod
    def host(threads: int | None = None) -> Target:
        """This machine; `threads` defaults to the cores that the process may use."""
        from .compat import global_func

        triple = _triple(architecture())
        cpu = str(global_func("tvm.codegen.llvm.GetHostCPUName")())
        found = {str(k): bool(v) for k, v in global_func("tvm.codegen.llvm.GetHostCPUFeatures")().items()}
        features = _cpu_features(triple, cpu)
        if found:  # a virtual machine may hide features that the cpu's name promises
            absent = {f for f, present in found.items() if not present}
            features = (features - absent) | relevant(architecture(), (f for f in found if found[f]))
        return Target(triple, cpu, features, check_threads(threads))


def parse_target(spec: str = "native", threads: int | None = None) -> Target:
    """A target from "native", a cpu name ("skylake-avx512", "haswell", "x86-64-v3") or "arch:cpu".

    Raises TargetError if LLVM does not know the cpu or planish does not know the architecture.
    """
    if spec == "native":
        return Target.host(threads)
    head, colon, cpu = spec.partition(":")
    arch, cpu = (architecture(head), cpu) if colon else (architecture(), head)
    triple = _triple(arch)
    _check_cpu(triple, cpu)
    return Target(triple, cpu, _cpu_features(triple, cpu), check_threads(threads))


def _triple(arch: str) -> str:
    if arch not in ARCHITECTURES:
        raise TargetError(
            f"The architecture {arch!r} is none that planish makes code for.",
            f"Give one of {', '.join(ARCHITECTURES)} as in 'aarch64:neoverse-v1', or 'native'.",
        )
    return f"{arch}-linux-gnu"


def _check_cpu(triple: str, cpu: str) -> None:
    """Ask LLVM for the name: an unknown one would silently become "generic"."""
    from .compat import global_func, tvm

    if cpu != "generic" and global_func("target.llvm_is_valid_cpu")(cpu, triple):
        if not triple.startswith("x86_64") or "64bit" in _llvm_features(triple, cpu):
            return
        raise TargetError(f"The cpu {cpu!r} has no 64-bit mode.", "planish makes 64-bit code only; give a newer cpu.")
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple})
    known = sorted(str(name) for name in global_func("target.llvm_get_cpu_archlist")(target))
    raise TargetError(
        f"LLVM does not know a cpu named {cpu!r} for {triple}.",
        f"Give 'native' or one of: {_nearest(cpu, known)}. For another architecture write 'aarch64:neoverse-v1'.",
    )


def _nearest(cpu: str, known: Iterable[str]) -> str:
    import difflib

    names = list(known)
    return ", ".join(difflib.get_close_matches(cpu, names, n=6, cutoff=0.4) or names)


def _llvm_features(triple: str, cpu: str) -> list[str]:
    from .compat import global_func, tvm

    target = tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu})
    return [str(name) for name in global_func("target.llvm_get_cpu_features")(target)]


def _cpu_features(triple: str, cpu: str) -> frozenset[str]:
    return relevant(triple.split("-")[0], _llvm_features(triple, cpu))
