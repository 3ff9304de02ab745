"""The only file that knows TVM's version: every TVM name that planish uses enters here.

names(compat) == what planish needs of the tested versions;   any other version -> MissingDependencyError
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from ...errors import MissingDependencyError

TESTED = {
    "apache-tvm": ("0.27.0", "0.27.0.post1"),
    "apache-tvm-ffi": ("0.1.14", "0.1.14.post1"),
}
"""Distributions and the releases that planish is tested with.

With apache-tvm-ffi 0.1.15 `Schedule.tensorize` dies with a segmentation fault; 0.1.13 does not load.
"""


def check_versions(installed: Callable[[str], str] = metadata.version) -> dict[str, str]:
    """Versions of TVM and its FFI, or an error that names the one that is missing or untested."""
    found: dict[str, str] = {}
    for name, tested in TESTED.items():
        try:
            found[name] = installed(name)
        except metadata.PackageNotFoundError:
            raise MissingDependencyError(
                f"{name} is not installed; it makes the machine code.",
                "Install the compiler extra: pip install 'planish[compile]'",
            ) from None
        if found[name].split("+")[0] not in tested:
            raise MissingDependencyError(
                f"{name} {found[name]} is installed, but planish is tested with {' and '.join(tested)} only.",
                f"pip install '{name}=={tested[-1]}'",
            )
    return found


VERSIONS = check_versions()

import tvm as _tvm  # noqa: E402  (only after the version is known to be right)
import tvm_ffi as _tvm_ffi  # noqa: E402
from tvm import relax as _relax  # noqa: E402
from tvm import s_tir as _s_tir  # noqa: E402
from tvm import te as _te  # noqa: E402
from tvm import tirx as _tirx  # noqa: E402
from tvm import topi as _topi  # noqa: E402
from tvm.script.ir_builder import IRBuilder as _IRBuilder  # noqa: E402
from tvm.tirx.script.builder import ir as _T  # noqa: E402

structural_equal: Any = _tvm_ffi.structural_equal
structural_hash: Any = _tvm_ffi.structural_hash
structural_map: Any = _tvm_ffi.structural_map
structural_walk: Any = _tvm_ffi.structural_walk
tvm: Any = _tvm
relax: Any = _relax
s_tir: Any = _s_tir
te: Any = _te
tirx: Any = _tirx
topi: Any = _topi
IRBuilder: Any = _IRBuilder
T: Any = _T
"""The TIR builder: `with IRBuilder() as ib: with T.prim_func(s_tir=True): ...; ib.get()`."""


def global_func(name: str) -> Callable[..., Any]:
    """One of TVM's registered functions."""
    func: Callable[..., Any] = tvm.get_global_func(name)
    return func


def rpc() -> Any:
    """TVM's client of trackers and servers, which few need."""
    from tvm import rpc as module

    return module


def save_module(symbol: str, func: Any) -> str:
    """A module of one PrimFunc, exported under `symbol`, as JSON for a worker process."""
    text: str = tvm.ir.save_json(tvm.IRModule({symbol: func.with_attr("global_symbol", symbol)}))
    return text


def build_executable(module: Any, target: Any) -> Any:
    """Relax functions over external kernels and planned memory to the VM's bytecode."""
    t = relax.transform
    passes = [t.RemovePurityChecking(), t.KillAfterLastUse(), t.LowerRuntimeBuiltin(), t.ComputePrimValue()]
    passes += [t.VMShapeLower(), t.AttachGlobalSymbol()]
    return relax.build(module, target=target, relax_pipeline=tvm.transform.Sequential(passes))


def executable_object(executable: Any, target: Any) -> bytes:
    """The bytecode as an object file: a data section that the runtime finds when it loads the library."""
    from tvm.runtime import _ffi_api

    packed = _ffi_api.ModulePackImportsToLLVM(executable.mod, False, str(target), "")
    with tempfile.TemporaryDirectory(prefix="planish-codegen-") as folder:
        path = Path(folder) / "bytecode.o"
        packed.write_to_file(str(path), "o")
        return path.read_bytes()


def virtual_machine(module: Any, device: Any) -> Any:
    """The virtual machine of a loaded library, here or over RPC."""
    from tvm.runtime.vm import VirtualMachine

    return VirtualMachine(module, device)


def meta_schedule() -> Any:
    """TVM's MetaSchedule, which few need."""
    from tvm.s_tir import meta_schedule as module

    return module


def tune_context(module: Any, target: Any, space: Any, strategy: Any, seed: int) -> Any:
    """MetaSchedule's context of one search, in one thread and silent.

    Its own constructor imports the tensor intrinsics of all targets first, which takes 20 s; none is used here.
    """
    ms = meta_schedule()
    context = ms.TuneContext.__new__(ms.TuneContext)
    made = ms._ffi_api.TuneContext
    context.__init_handle_by_constructor__(made, module, target, space, strategy, "main", 1, seed, lambda *_: None)
    ms._ffi_api.TuneContextInitialize(context)
    return context
