"""CPU features by LLVM's names, read without LLVM: what code needs, and what this machine has.

code may run here  <=>  architecture equal  and  needs <= has

The tables list the features that LLVM uses by itself for arithmetic and memory. What only an explicit intrinsic
can ask for (cryptography, tiles, protection keys, cache control) is left out: no emitted code depends on it, and
virtual machines often hide it. A kernel that uses such an intrinsic adds the feature here.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

X86_FLAGS = {
    "cmov": "cmov",
    "cx16": "cx16",
    "sse": "sse",
    "sse2": "sse2",
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "sse4a": "sse4a",
    "popcnt": "popcnt",
    "lzcnt": "abm",
    "sahf": "lahf_lm",
    "movbe": "movbe",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "adx": "adx",
    "tbm": "tbm",
    "xop": "xop",
    "gfni": "gfni",
    "avx": "avx",
    "avx2": "avx2",
    "f16c": "f16c",
    "fma": "fma",
    "fma4": "fma4",
    "avxvnni": "avx_vnni",
    "avxifma": "avx_ifma",
    "avxvnniint8": "avx_vnni_int8",
    "avxvnniint16": "avx_vnni_int16",
    "avxneconvert": "avx_ne_convert",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
}
"""LLVM's feature -> the flag in /proc/cpuinfo."""

ARM_FLAGS = {
    "fp-armv8": "fp",
    "neon": "asimd",
    "crc": "crc32",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "fullfp16": "asimdhp",
    "fp16fml": "asimdfhm",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "complxnum": "fcma",
    "rcpc": "lrcpc",
    "rcpc-immo": "ilrcpc",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
"""LLVM's feature -> the hardware capability in /proc/cpuinfo."""

ARCHITECTURES = {"x86_64": X86_FLAGS, "aarch64": ARM_FLAGS}
_ALIASES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def architecture(name: str | None = None) -> str:
    """The canonical name of an architecture; of this machine's by default."""
    name = (name or platform.machine()).lower()
    return _ALIASES.get(name, name)


def relevant(arch: str, features: Iterable[str]) -> frozenset[str]:
    """Those of LLVM's `features` that emitted code may use."""
    return frozenset(features) & ARCHITECTURES[arch].keys()


def machine_flags(cpuinfo: str | None = None) -> frozenset[str]:
    """Flags that every core in /proc/cpuinfo has; empty if the system does not tell."""
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return frozenset()
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    cores = [set(value.split()) for key, _, value in lines if key.strip().lower() in ("flags", "features")]
    return frozenset(set.intersection(*cores)) if cores else frozenset()


def missing(arch: str, needs: Iterable[str], flags: frozenset[str] | None = None) -> list[str]:
    """Features among `needs` that this machine lacks, sorted.

    A name that the table does not know counts as missing: it was written by a newer planish.
    """
    have = machine_flags() if flags is None else flags
    table = ARCHITECTURES.get(arch, {})
    return sorted(f for f in needs if table.get(f) not in have)


def available_threads() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
