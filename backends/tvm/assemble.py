"""From code to a Compiled: the manifest, the runtime library and the self-test around what `build` made.

assemble(build(plan, weights, target), signature) == load(file)     the same checks, the same path, no file yet
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...ir.report import PassReport
from ...ir.signature import Signature
from . import cpu, selftest
from .artifact import Artifact, Contents
from .build import Code
from .engine import installed_runtime
from .runtime import Compiled


def assemble(
    code: Code,
    signature: Signature,
    *,
    name: str = "model",
    report: Sequence[PassReport] = (),
    options: Mapping[str, Any] | None = None,
    include_runtime: bool = True,
    threads: int | None = None,
    tuning: Mapping[str, Any] | None = None,
) -> Compiled:
    """A Compiled that can be called (if this machine can run it) and saved.

    `options` is what the user asked for and `tuning` what tuning did, both kept in the manifest. `include_runtime` puts
    libtvm_runtime.so inside, so that loading needs no installed TVM; it exists for this machine's architecture only.
    """
    from .compat import VERSIONS

    manifest = {
        "name": name,
        "versions": VERSIONS,
        "target": code.target.to_json(),
        "signature": signature.to_json(),
        "report": [entry.to_json() for entry in report],
        "options": dict(options or {}),
        "tuning": None if tuning is None else dict(tuning),
        "calls": code.calls,
    }
    contents = Contents(code.library, code.weights, manifest, _runtime(code.target.arch) if include_runtime else None)
    compiled = Compiled(Artifact.in_memory(contents), threads, here=False)
    if not compiled.runs_here:
        return compiled
    contents = replace(contents, expected=selftest.sample(compiled.seeded_outputs()))
    return Compiled(Artifact.in_memory(contents), threads)


def _runtime(arch: str) -> bytes | None:
    """The installed runtime library, if code of this architecture can use it."""
    path = installed_runtime()
    return path.read_bytes() if path is not None and arch == cpu.architecture() else None
