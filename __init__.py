"""planish: a compiler plug-in for PyTorch. Imports nothing heavy: torch and TVM load on first use.

planish.compile(model, inputs)(*inputs)  ==  planish.load(file)(*inputs)  ==  model(*inputs)   up to rounding
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Never

from . import errors
from .errors import PlanishError

if TYPE_CHECKING:
    import os

    import torch

    from .backends.tvm.runtime import Compiled
    from .ir.image import Image
    from .ir.program import Program
    from .passes.base import Step
    from .quantization import Quantization

__version__ = "0.1.0"
__all__ = [
    "Compiled",
    "Image",
    "PlanishError",
    "Program",
    "Quantization",
    "__version__",
    "compile",
    "errors",
    "export_onnx",
    "fake_quantize",
    "load",
    "rewrite",
    "tune_mode",
]


def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    target: str = "native",
    precision: str | Quantization = "float32",
    numerics: str = "fast",
    calibration: Any = None,
    preprocess: Image | None = None,
    passes: str | Sequence[Step] | None = None,
    dynamic_shapes: Any = None,
    tune: float = 0.0,
    tuning_db: str | os.PathLike[str] | None = None,
    rpc: str | None = None,
    metaschedule: bool = False,
    threads: int | None = None,
    verify: bool = False,
    progress: bool | Callable[[str, int, int], None] | None = None,
    select: Callable[[Any], Any] | None = None,
    **unknown: Never,
) -> Compiled:
    """Compile an inference model for one machine.

    `model` is an `nn.Module` in eval mode with `example_inputs` (a tuple, or one tensor), an `ExportedProgram`,
    or the path of a `.pt2` file. `target` is "native", an LLVM cpu name, or "arch:cpu"; `threads` is how many
    threads the code is planned for. With `verify`, every rewrite and the compiled code are compared with the
    model itself. `precision` is "float32", "bfloat16", or "int8" (or a `Quantization`), which needs a loader of typical
    inputs as `calibration`; `select` takes labels off its items. `preprocess`, an `Image`, is compiled with the model,
    which then takes uint8 images; the example may be either. `progress` shows a bar (None: on a terminal), or is
    called with (what, done, of how many).
    `docs/cli.md` has every option.
    """
    options = {
        "target": target,
        "precision": precision,
        "numerics": numerics,
        "calibration": calibration,
        "preprocess": preprocess,
        "passes": passes,
        "dynamic_shapes": dynamic_shapes,
        "tune": tune,
        "tuning_db": tuning_db,
        "rpc": rpc,
        "metaschedule": metaschedule,
        "threads": threads,
        "verify": verify,
        "progress": progress,
        "select": select,
        **unknown,
    }
    from .options import check_options

    checked = check_options(options)
    return _compiler().compile_model(model, example_inputs, example_kwargs, checked)  # type: ignore[no-any-return]


def rewrite(
    model: Any,
    example_inputs: Any = None,
    passes: str | Sequence[Step] = "exact",
    verify: bool = False,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
) -> Program:
    """Run a pipeline, by name, or a list of passes over a model; the result runs in PyTorch and prints as text."""
    return _compiler().rewrite_model(model, example_inputs, example_kwargs, passes, verify)  # type: ignore[no-any-return]


def export_onnx(
    model: Any,
    path: str | os.PathLike[str],
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    precision: str | Quantization = "int8",
    calibration: Any = None,
    preprocess: Image | None = None,
    passes: str | Sequence[Step] | None = None,
    verify: bool = False,
    progress: bool | Callable[[str, int, int], None] | None = None,
    select: Callable[[Any], Any] | None = None,
) -> None:
    """Write the integers that `compile(..., precision="int8")` computes with as an ONNX file (opset 21).

    Values are quantized and dequantized around operators of floats ("QDQ"), with the scales, zero points and weights
    that planish has: engines fuse that into integer kernels of their own. In ONNX Runtime each value is within one
    code. Options are those of `compile`; `model` may also be an integer `Program`. Needs `planish[onnx]`.
    """
    from .options import check_options

    options = {
        "precision": precision,
        "calibration": calibration,
        "preprocess": preprocess,
        "passes": passes,
        "verify": verify,
        "progress": progress,
        "select": select,
    }
    _exporting().export_model(model, path, example_inputs, example_kwargs, check_options(options))


def load(path: str | os.PathLike[str], threads: int | None = None) -> Compiled:
    """Load an artifact. Needs no torch; takes NumPy arrays or anything with DLPack, and returns the same kind."""
    from .backends.tvm.runtime import load as load_artifact

    return load_artifact(path, threads=threads)


def fake_quantize(
    model: torch.nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    calibration: Any = None,
    precision: str | Quantization = "int8",
    preprocess: Image | None = None,
    ranges: str = "learned",
    select: Callable[[Any], Any] | None = None,
    progress: bool | Callable[[str, int, int], None] | None = None,
) -> torch.nn.Module:
    """A module that trains `model`'s own parameters in integers: each call gives what the integer artifact of the
    present parameters would, bit for bit, with straight-through gradients.

    `ranges` start as `calibration` shows them and are then parameters ("learned"), or in train mode follow the data
    ("ema", with the momentum of `precision`). With `preprocess` the module takes uint8 images, as the artifact will.
    `planish.compile(module, x, precision="int8")` needs no calibration.
    """
    from .options import check_options

    given = {"precision": precision, "calibration": calibration, "preprocess": preprocess, "select": select}
    checked = check_options({**given, "progress": progress})
    _compiler()  # or the error that says what to install
    from .training import fake_quantize as make

    return make(model, example_inputs, example_kwargs, ranges, checked)


def tune_mode(model: torch.nn.Module, inner: str = "eager") -> torch.nn.Module:
    """A module that trains `model`'s own parameters, with eval-mode batch norms folded into the convolutions before
    them in every step: the same outputs and gradients in less memory and time (ConvBN Tune mode, arXiv 2305.11624).

    Only the norms in eval mode are folded, as they are at each call. `inner` ("eager" or "inductor") runs the graphs;
    `tune_reports` of the result says what was folded and what was not, with the reason.
    """
    try:
        from .backends.dynamo_tune import tune_mode as make
    except ModuleNotFoundError as error:
        raise errors.missing_extra(error) from None
    return make(model, inner)


def _compiler() -> Any:
    """The module that drives compilation, or an error that says how to install what it needs."""
    try:
        from . import compiler
    except ModuleNotFoundError as error:
        raise errors.missing_extra(error) from None
    return compiler


def _exporting() -> Any:
    """The module that exports, or an error that says how to install what it needs."""
    try:
        from . import exporting
    except ModuleNotFoundError as error:
        raise errors.missing_extra(error) from None
    return exporting


def __getattr__(name: str) -> Any:
    """Classes that are heavy to import, on first use."""
    if name == "Compiled":
        from .backends.tvm.runtime import Compiled

        return Compiled
    if name == "Image":
        from .ir.image import Image

        return Image
    if name == "Quantization":
        from .quantization import Quantization

        return Quantization
    if name == "Program":
        from .ir.program import Program

        return Program
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
