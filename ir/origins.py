"""Where a node came from: the user's module path and the user's line, out of what torch leaves in `node.meta`.

    origin(node)  ==  Origin("layer1.0.conv1", "torch.nn.modules.conv.Conv2d", "/home/me/model.py:41")

A module that is called twice is told apart per call: its second call is `conv@1`. Frames inside torch and the
standard library are skipped: the innermost line that a user could edit is shown.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import fx

from .program import Origin

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_INDEX = re.compile(r"""\._(?:modules|parameters|buffers)\[['"]([^'"]+)['"]\]|\[['"]?([^'"\]]+)['"]?\]""")
_ROOT = re.compile(r"""^[LG]\[['"]([^'"]+)['"]\]""")

_FOREIGN = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
    *{sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")},
)
_SITE = ("site-packages", "dist-packages")


def origin(node: fx.Node) -> Origin:
    """The origin of a node that torch.export or Dynamo made."""
    stack = node.meta.get("nn_module_stack") or {}
    source = user_frame(_FRAME.findall(node.meta.get("stack_trace") or ""))
    if not stack:
        return Origin("", "", source)
    key, (path, module) = list(stack.items())[-1]
    call = key.rsplit("@", 1)[1] if "@" in key else ""
    layer = dotted_path(path)
    name = module if isinstance(module, str) else f"{module.__module__}.{module.__qualname__}"
    if "<locals>" in name and name.startswith("torch."):  # export's own wrapper of the outermost module
        name = ""
    return Origin(f"{layer}@{call}" if call else layer, name, source)


def dotted_path(path: str) -> str:
    """`L['self']._modules['layer1'].conv` (a Dynamo source) as `layer1.conv`; other paths as they are.

    Where a bound method was compiled, the module is its `__self__`.
    """
    if not _ROOT.match(path):
        return path
    rest = _INDEX.sub(lambda found: "." + (found.group(1) or found.group(2)), _ROOT.sub("", path))
    return rest.strip(".").removeprefix("__self__").strip(".")


def root_name(path: str) -> str:
    """`model` of `L['model']._modules['layer1']`."""
    found = _ROOT.match(path)
    return found.group(1) if found else ""


def user_frame(frames: Iterable[tuple[str, Any]]) -> str:
    """`file.py:12` of the innermost frame that is the user's own, "" if there is none."""
    own = [f"{file}:{line}" for file, line in frames if _is_users(file)]
    return own[-1] if own else ""


def error_source(trace: TracebackType | None) -> str:
    """The user's line that an exception passed through, below the frame that caught it."""
    frames = []
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return user_frame(frames[1:])


def _is_users(file: str) -> bool:
    """Whether the file is neither generated code nor torch's, planish's or the standard library's."""
    if file.startswith("<"):
        return False
    foreign = any(file.startswith(f"{folder}/") for folder in _FOREIGN)
    return not foreign or (any(f"/{site}/" in file for site in _SITE) and not file.startswith(_FOREIGN[:2]))
