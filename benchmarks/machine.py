"""What a table of times must say of the machine: CPU, cores, versions."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

DISTRIBUTIONS = ("planish", "apache-tvm", "torch", "onnxruntime", "openvino")


def describe() -> dict[str, str]:
    """The CPU's name, the cores of this process, and the installed engines."""
    return {"cpu": cpu_name(), "cores": str(len(os.sched_getaffinity(0))), **versions()}


def cpu_name() -> str:
    """As Linux calls it, with LLVM's name for the kind where TVM is installed."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    from planish.backends.tvm.target import parse_target

    return f"{named.get('model name', 'unknown CPU')} ({parse_target('native').cpu})"


def versions() -> dict[str, str]:
    """Of every engine that is installed."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
