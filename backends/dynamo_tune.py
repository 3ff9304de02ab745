"""The Tune door: training graphs with their eval-mode batch norms folded, handed on to another backend.

    tune_mode(model)(x) == model(x), with the same gradients and parameters, in less memory and time

`torch.compile(model, backend="planish", options={"mode": "tune", "inner": "inductor"})` comes here as well. What is
folded, and what is not and why, goes to `options["report"]`, a function, and to `logging.getLogger("planish")`.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from ..errors import OptionError
from ..ir.report import PassReport
from ..passes.convbn.tune import tune_graph

_LOG = logging.getLogger("planish")
_KNOWN = ("mode", "inner", "report")

Run = Callable[..., Any]


def tune_mode(model: torch.nn.Module, inner: str = "eager") -> torch.nn.Module:
    """A module that trains `model`'s own parameters in ConvBN Tune mode; put the norms to tune in eval mode.

    Parameters, buffers, submodules and the keys of `state_dict()` are the model's, not copies. Each call looks up
    the mode of every batch norm: those in train mode normalize by their batch and update their statistics as ever.
    `inner` runs the graphs: "eager" or "inductor". The attribute `tune_reports` lists, for each graph that was made,
    the sites that were folded and those that were refused with the reason. Raises OptionError.

    You et al., Efficient ConvBN Blocks for Transfer Learning and Beyond (arXiv 2305.11624).
    """
    if not isinstance(model, torch.nn.Module):
        raise OptionError(f"tune_mode takes an nn.Module, not a {type(model).__name__}.", "Give the model to train.")
    reports: list[PassReport] = []
    options: dict[str, Any] = {"mode": "tune", "inner": inner, "report": reports.append}
    _check(options)
    twin = copy.copy(model)
    # Module.compile would leave containers such as nn.Sequential alone: their forward is torch's own code
    call = torch._dynamo.external_utils.wrap_inline(twin._call_impl)
    backend = functools.partial(tune_backend, options=options)  # by name it needs the package's entry points
    twin._compiled_call_impl = torch.compile(call, backend=backend)
    twin.tune_reports = reports  # type: ignore[assignment]
    return twin


def tune_backend(gm: fx.GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any]) -> Run:
    """What `torch.compile` calls with each graph in Tune mode. Raises OptionError."""
    inner = _check(options)
    report = tune_graph(gm)
    if tell := options.get("report"):
        tell(report)
    for site in report.refused:
        _LOG.warning(
            "planish: tune mode leaves %s at %s: %s", site.op, ", ".join(site.layers) or site.node, site.reason
        )
    if inner == "eager":
        return gm.forward
    compiled: Run = torch._dynamo.lookup_backend("inductor")(gm, list(example_inputs))
    return compiled


def _check(options: Mapping[str, Any]) -> str:
    """The inner backend's name; OptionError for anything that means nothing here."""
    for name in options:
        if name not in _KNOWN:
            raise OptionError(f"Tune mode has no option {name!r}.", f"Options are {', '.join(_KNOWN)}.")
    inner = options.get("inner", "inductor")
    if inner not in ("inductor", "eager"):
        raise OptionError(f"There is no inner backend {inner!r}.", "Give 'inductor' or 'eager'.")
    if inner == "inductor" and not compiler_found():
        raise OptionError(
            "inner='inductor' needs a C++ compiler, and none was found.", "Install g++ or clang, or give inner='eager'."
        )
    if not (options.get("report") is None or callable(options["report"])):
        raise OptionError(f"report={options['report']!r} is not a function.", "Give a function of one PassReport.")
    return str(inner)


def compiler_found() -> bool:
    """Whether there is the C++ compiler that Inductor needs; without one it fails deep inside, at the first call."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False
