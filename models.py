"""What the command line calls MODEL and --input, turned into a module and its example inputs.

load_model("pkg.nets:resnet20") = pkg.nets.resnet20()        load_model("net.pt2") = "net.pt2"
example_inputs(resnet20, {"x": "f32[1,3,32,32]"}) = {"x": torch.randn(1, 3, 32, 32)}
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .arrays import read_array, read_arrays
from .errors import ModelError, OptionError, PlanishError

DTYPES = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "u8": torch.uint8,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "bool": torch.bool,
}
"""Short names of dtypes; the long ones ("float32") are understood too."""

_SPEC = re.compile(r"(?P<dtype>\w+)\[(?P<shape>[\d,\s]*)\]")


def load_model(spec: str, weights: str | os.PathLike[str] | None = None) -> Any:
    """The module that `package.module:factory` makes, weights loaded; the path of a `.pt2` file is left as it is."""
    if spec.endswith(".pt2"):
        if weights is not None:
            raise OptionError(f"{spec} has its own weights.", "Leave --weights out, or compile from a factory.")
        return spec
    model = _call_factory(spec)
    if weights is not None:
        load_weights(model, weights)
    return model


def load_data(spec: str) -> Any:
    """Calibration data: a .npy file, a .npz file by the names of inputs, or what `package.module:loader` is or returns.

    Arrays may hold many batches: they are split.
    """
    if spec.endswith(".npy"):
        return [torch.from_numpy(read_array(spec))]
    if spec.endswith(".npz"):
        return [{name: torch.from_numpy(array) for name, array in read_arrays(spec).items()}]
    module, colon, attribute = spec.partition(":")
    if not (colon and module and attribute):
        raise ModelError(f"{spec!r} is no calibration data.", "Give file.npy, file.npz, or package.module:loader.")
    found = _attribute(_import(module, spec), attribute, spec)
    return found() if callable(found) else found


def load_function(spec: str) -> Callable[[Any], Any]:
    """The function that `package.module:name` is."""
    module, colon, attribute = spec.partition(":")
    if not (colon and module and attribute):
        raise ModelError(f"{spec!r} is no function.", "Give package.module:function.")
    found = _attribute(_import(module, spec), attribute, spec)
    if not callable(found):
        raise ModelError(f"{spec} is a {type(found).__name__}, not a function.", "Give package.module:function.")
    return found  # type: ignore[no-any-return]


def load_weights(model: Any, path: str | os.PathLike[str]) -> None:
    """Load a safetensors file into `model`; missing and unexpected names are errors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_model as load_tensors

    name = os.fspath(path)
    if not isinstance(model, torch.nn.Module):
        raise OptionError(f"--weights needs a module, and this model is a {type(model).__name__}.", "Leave it out.")
    if not Path(path).is_file():
        raise ModelError(f"There is no weights file {name}.", "Give a file that safetensors.torch.save_model wrote.")
    try:
        missing, unexpected = load_tensors(model, name, strict=False)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ModelError(f"The weights in {name} do not fit: {_all_lines(error)}", _SAME_MODEL) from error
    if missing or unexpected:
        lines = [f"missing: {', '.join(sorted(missing))}"] if missing else []
        lines += [f"unexpected: {', '.join(sorted(unexpected))}"] if unexpected else []
        raise ModelError(f"The weights in {name} do not fit the model; {'; '.join(lines)}.", _SAME_MODEL)


_SAME_MODEL = "Give the weights of this very model, saved with safetensors.torch.save_model or save_file."


def example_inputs(model: torch.nn.Module, specs: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Example tensors by the names of forward's parameters; `specs` hold `f32[1,3,32,32]` or `file.npy`."""
    parameters = inspect.signature(model.forward).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    fix = f"forward takes ({', '.join(map(str, parameters.values()))}); write --input name=f32[1,3,224,224]."
    for name in specs:
        if name not in parameters and not free:
            raise OptionError(f"The model has no input {name!r}.", fix)
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and name not in specs:
            raise OptionError(f"Input {name!r} has no example.", fix)
    return {name: example_tensor(name, spec) for name, spec in specs.items()}


def example_tensor(name: str, spec: str) -> torch.Tensor:
    """A tensor from `f32[1,3,32,32]` (normal floats, zeros for integers, True for bools) or from a .npy file."""
    if spec.endswith(".npy"):
        return torch.from_numpy(read_array(spec))
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise OptionError(f"--input {name}={spec} is neither a shape nor a .npy file.", _INPUT_SYNTAX)
    dtype = DTYPES.get(match["dtype"], getattr(torch, match["dtype"], None))
    if not isinstance(dtype, torch.dtype):
        near = difflib.get_close_matches(match["dtype"], DTYPES, n=1) or ["f32"]
        raise OptionError(
            f"--input {name}={spec} has an unknown dtype {match['dtype']!r}.",
            f"Did you mean {near[0]!r}? Dtypes are {', '.join(DTYPES)}.",
        )
    try:
        shape = [int(extent) for extent in match["shape"].split(",") if extent.strip()]
    except ValueError:
        raise OptionError(f"--input {name}={spec} has a malformed shape.", _INPUT_SYNTAX) from None
    if dtype.is_floating_point:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return torch.ones(shape, dtype=dtype) if dtype is torch.bool else torch.zeros(shape, dtype=dtype)


_INPUT_SYNTAX = "Write --input name=f32[1,3,224,224], or --input name=file.npy."


def _call_factory(spec: str) -> Any:
    """Import `package.module:factory` with the current folder on the path, and call it."""
    module_name, colon, attribute = spec.partition(":")
    if not (colon and module_name and attribute) or module_name.startswith("."):
        raise ModelError(f"{spec!r} is no model.", "Give a .pt2 file, or package.module:factory.")
    if module_name.endswith(".py"):
        name = module_name.removesuffix(".py").strip("/").replace("/", ".")
        raise ModelError(
            f"{spec!r} names a file, not a module.", f"Write {name}:{attribute}, from the folder of {name}."
        )
    factory = _attribute(_import(module_name, spec), attribute, spec)
    if isinstance(factory, torch.nn.Module | torch.export.ExportedProgram):
        return factory
    if not callable(factory):
        raise ModelError(
            f"{spec} is a {type(factory).__name__}, not a factory.",
            "Name a function or class that returns the module when called without arguments.",
        )
    try:
        model = factory()
    except PlanishError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"Calling {spec}() failed: {type(error).__name__}: {_first_line(error)}",
            "The factory is called without arguments; wrap the model in a function that needs none.",
        ) from error
    if not isinstance(model, torch.nn.Module | torch.export.ExportedProgram):
        raise ModelError(
            f"{spec}() returned a {type(model).__name__}.", "Return an nn.Module or an ExportedProgram from it."
        )
    return model


def _import(name: str, spec: str) -> Any:
    """Import a module as if from the current folder."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a script may end the process where it lacks its own arguments
        raise ModelError(
            f"{spec} cannot be imported: {type(error).__name__}: {_first_line(error)}",
            f"Run from the folder that holds {name.split('.')[0]} (now {here}), or install it.",
        ) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _attribute(module: Any, dotted: str, spec: str) -> Any:
    """`module.a.b`, or an error with the nearest name."""
    found = module
    for name in dotted.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found), n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "Name a function or class of that module."
            raise ModelError(f"{spec}: {getattr(found, '__name__', module.__name__)} has no {name!r}.", hint)
        found = getattr(found, name)
    return found


def _first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _all_lines(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split())
