"""Machine code in this process: the runtime library, the loaded kernels, one virtual machine for each thread.

engine.call(tensors) = main(*tensors, *weights)

Goes through `tvm_ffi` and libtvm_runtime alone. `tvm_ffi` imports torch if it can; it is kept from doing so here,
and both torch and TVM's compiler can be imported afterwards. If they are there already, they are used.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from ...errors import ArtifactError, CodegenError, MissingDependencyError
from . import threads as pools
from .artifact import Artifact
from .derive import arguments
from .scratch import buffers

T = TypeVar("T")

_CPU, _POOLED = 1, 2
_lock = threading.Lock()
_serial = itertools.count(1)
_loaded: list[str] = []
"""The version of the runtime library that this process loaded, if it did."""


class Engine:
    """The code of one artifact, ready to be called from any thread."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Load what the artifact brings; its digests and CPU features must have been checked."""
        self.threads = threads
        self._ffi = import_ffi(artifact)
        load_runtime(self._ffi, artifact)
        self._module = load_library(self._ffi, artifact.code)
        self._machines = threading.local()
        self._configure = self._ffi.get_global_func("runtime.config_threadpool")
        self._pool_size = self._ffi.get_global_func("runtime.NumThreads")
        self._release = self._ffi.get_global_func("vm.builtin.memory_manager.clear")
        self.weight_tensors = arguments(artifact, self.tensor, self._kernel, self._in_pool)
        self._memory = artifact.manifest["calls"]["memory"]

    def __del__(self) -> None:
        """Give back what the process-wide pool keeps of results; a machine holds its last ones until it ends."""
        release = getattr(self, "_release", None)
        if release is not None and not sys.is_finalizing():
            del self._machines
            release()

    def tensor(self, value: Any) -> Any:
        """Anything with DLPack as an argument, without a copy."""
        return self._ffi.from_dlpack(value)

    def call(self, tensors: Sequence[Any]) -> list[Any]:
        """Run main; the results are fresh tensors."""
        return self._in_pool(lambda: self._run(tensors))

    def observed(self, tensors: Sequence[Any], observer: Callable[..., Any]) -> Callable[[], list[Any]]:
        """A way to run main with `observer(function, name, before, result, *args)` around each kernel."""
        machine = self._machine()
        machine["set_instrument"](observer)
        main, own = machine["main"], self._own_arguments()
        return lambda: self._in_pool(lambda: list(main(*tensors, *own)))

    def run_kernel(self, symbol: str, arrays: Sequence[Any]) -> None:
        """Call one kernel of the code by itself."""
        kernel, tensors = self._kernel(symbol), [self.tensor(array) for array in arrays]
        self._in_pool(lambda: kernel(*tensors))

    def _kernel(self, symbol: str) -> Callable[..., Any]:
        kernel: Callable[..., Any] = self._module.get_function(symbol, query_imports=True)
        return kernel

    def _in_pool(self, call: Callable[[], T]) -> T:
        return pools.in_pool(self.threads, self._configure, self._pool_size, call)

    def _run(self, tensors: Sequence[Any]) -> list[Any]:
        machines = self._machines
        main = getattr(machines, "main", None)
        if main is None:  # a machine's registers and buffers are its own: two threads in one would mix them
            machines.own = self._own_arguments()
            main = machines.main = self._machine()["main"]
        return list(main(*tensors, *machines.own))

    def _own_arguments(self) -> tuple[Any, ...]:
        """What main gets besides the inputs: the weights, and the parts of a new arena."""
        parts = buffers(self._memory["size"], self._memory["buffers"])
        return (*self.weight_tensors, *map(self.tensor, parts))

    def _machine(self) -> Any:
        machine = self._module["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED)
        return machine


def import_ffi(artifact: Artifact) -> Any:
    """`tvm_ffi`, imported without torch unless torch is there already."""
    if "tvm_ffi" in sys.modules:
        import tvm_ffi

        return tvm_ffi
    with _lock:
        hidden = "torch" not in sys.modules
        if hidden:
            sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` an ImportError
        try:
            import tvm_ffi
        except ImportError as error:
            raise MissingDependencyError(
                f"apache-tvm-ffi cannot be imported ({error}); {artifact.name} runs through it.",
                f"pip install 'apache-tvm-ffi=={artifact.manifest['versions']['apache-tvm-ffi']}'",
            ) from None
        finally:
            if hidden:
                del sys.modules["torch"]
    return tvm_ffi


def load_runtime(ffi: Any, artifact: Artifact) -> None:
    """Make libtvm_runtime's functions known: what is loaded already, else the installed one, else the artifact's.

    An installed TVM of the same version goes first: it can then be imported later, on the same library.
    """
    pools.prepare()
    wanted = artifact.manifest["versions"]["apache-tvm"]
    with _lock:
        _check_version("apache-tvm-ffi", _version("apache-tvm-ffi"), artifact)
        if ffi.get_global_func("runtime.config_threadpool", allow_missing=True) is not None:
            _check_version("apache-tvm", _loaded[0] if _loaded else _version("apache-tvm"), artifact)
            return
        installed = installed_runtime()
        if installed is not None and _version("apache-tvm") == wanted:
            ctypes.CDLL(str(installed), ctypes.RTLD_GLOBAL)
        elif (library := artifact.runtime) is not None:
            _with_path(library, lambda path: ctypes.CDLL(path, ctypes.RTLD_GLOBAL))
        else:
            raise MissingDependencyError(
                f"{artifact.name} brings no runtime library, and apache-tvm {wanted} is not installed.",
                f"pip install 'apache-tvm=={wanted}', or compile the model on this architecture.",
            )
        _loaded.append(wanted)


def installed_runtime() -> Path | None:
    """libtvm_runtime.so of an installed TVM, found without importing it."""
    try:
        spec = importlib.util.find_spec("tvm")
    except (ImportError, ValueError):  # somebody hides it
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in (Path(folder) / "lib" / "libtvm_runtime.so", Path(folder) / "libtvm_runtime.so"):
            if path.is_file():
                return path
    return None


def load_library(ffi: Any, code: memoryview) -> Any:
    """The module of a shared library given as bytes."""
    load = ffi.get_global_func("ffi.Module.load_from_file.so")
    try:
        return _with_path(code, lambda path: load(path, "so"))
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise CodegenError(
            f"The machine code cannot be loaded: {lines[-1] if lines else error}",
            "Compile the model again with this version of planish.",
        ) from None


def _with_path(data: bytes | memoryview, use: Callable[[str], Any]) -> Any:
    """Call `use` with a path under which `data` can be mapped as code; nothing stays behind.

    The C library takes an equal path for an equal library, even after its descriptor was closed and used again.
    Hence the redundant slashes: they spell a number that never comes twice.
    """
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("planish-code", os.MFD_CLOEXEC), "wb") as file:
            file.write(data)
            file.flush()
            unique = "".join(".//" if bit == "1" else "./" for bit in f"{next(_serial):b}")
            try:
                return use(f"/proc/self/{unique}fd/{file.fileno()}")
            except (OSError, RuntimeError):
                pass  # executable anonymous files may be forbidden
    with tempfile.TemporaryDirectory(prefix="planish-code-") as folder:
        path = Path(folder) / "code.so"
        path.write_bytes(data)
        return use(str(path))


def _check_version(distribution: str, found: str | None, artifact: Artifact) -> None:
    """Refuse an artifact made for another release: code and library would not fit."""
    wanted = artifact.manifest["versions"][distribution]
    if found is None or found.split(".")[:3] != wanted.split(".")[:3]:
        raise ArtifactError(
            f"{artifact.name} was made for {distribution} {wanted}; {found or 'an unknown version'} is in use here.",
            f"Use {distribution} {wanted} (one process runs one version), or compile the model again.",
        )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
