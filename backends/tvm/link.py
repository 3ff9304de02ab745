"""Objects to one shared object, for this machine or another, without a system compiler: the `ziglang` wheel's lld.

link(objects) -> bytes of an ELF file whose only undefined symbols are those of TVM's runtime and libm
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...errors import CodegenError, MissingDependencyError
from .cpu import architecture
from .target import Target

_EMULATION = {"x86_64": "elf_x86_64", "aarch64": "aarch64linux"}


def zig_path() -> Path:
    """The zig program of the `ziglang` wheel."""
    spec = importlib.util.find_spec("ziglang")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        zig = Path(folder) / ("zig.exe" if os.name == "nt" else "zig")
        if zig.is_file():
            return zig
    raise MissingDependencyError(
        "ziglang is not installed; it links the machine code.",
        "Install the compiler extra: pip install 'planish[compile]'",
    )


def link(objects: Mapping[str, bytes], target: Target) -> bytes:
    """Link named object files for `target`; raises CodegenError with the linker's own words."""
    zig = zig_path()
    with tempfile.TemporaryDirectory(prefix="planish-link-") as folder:
        root = Path(folder)
        names = []
        for index, data in enumerate(objects.values()):
            names.append(f"{index}.o")
            (root / names[-1]).write_bytes(data)
        (root / "objects").write_text("\n".join(names))
        command = [str(zig), "ld.lld", "-shared", "-m", _EMULATION[architecture(target.arch)], "--strip-all"]
        command += ["--build-id=none", "-z", "noexecstack", "-z", "now", "--gc-sections", "-o", "out.so", "@objects"]
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not (root / "out.so").is_file():
            said = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
            raise CodegenError(
                f"The linker failed on {len(objects)} objects for {target.triple}: {said}",
                "Report this; the kernels were compiled, but could not be joined.",
            )
        return (root / "out.so").read_bytes()
