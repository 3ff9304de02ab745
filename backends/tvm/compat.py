"""The only file that knows TVM's version: every TVM name that planish uses enters here.

names(compat) == what planish needs of the tested versions;   any other version -> MissingDependencyError
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
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
from tvm import relax as _relax  # noqa: E402
from tvm import s_tir as _s_tir  # noqa: E402
from tvm import te as _te  # noqa: E402
from tvm import tirx as _tirx  # noqa: E402
from tvm import topi as _topi  # noqa: E402
from tvm.script.ir_builder import IRBuilder as _IRBuilder  # noqa: E402
from tvm.tirx.script.builder import ir as _T  # noqa: E402

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
