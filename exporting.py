"""`planish.export_onnx`: a quantized model as an ONNX file, for other engines.

export_onnx(model, path) = write(model_of(integers(model)), path)         integers: as `planish.compile` makes them
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .backends.tvm.files import check_path, write_atomically
from .compiler import BringsIntegers, captured_with, optimize, quantized_of, with_codes, with_model_of_command
from .errors import MissingDependencyError, OptionError
from .ir.program import Program, Stage
from .models import load_data
from .options import Options, Progress, check_options
from .progress import showing
from .quantization import Quantization

if TYPE_CHECKING:
    Write = Callable[[Program, str | os.PathLike[str], Callable[..., None]], None]


def export_model(
    model: Any, path: str | os.PathLike[str], inputs: Any, kwargs: Mapping[str, Any] | None, options: Options
) -> None:
    """`planish.export_onnx`, its options checked."""
    write = _writer()
    check_path(path)
    with showing(options.progress) as report:
        program = model if isinstance(model, Program) else integers_of(model, inputs, kwargs, options, report)
        if program.stage is not Stage.QUANTIZED:
            raise OptionError(
                f"A program at stage {program.stage.name} is exported, and ONNX files are written of QUANTIZED ones.",
                "Give the model with calibration data, or what `integerize` returned.",
            )
        report("export", 0, 1)
        write(program, path, write_atomically)
        report("export", 1, 1)


def export_from_command(
    spec: str,
    output: str,
    inputs: Mapping[str, str],
    weights: str | None,
    eval_mode: bool,
    options: Mapping[str, Any],
) -> None:
    """`planish export`: as for `planish compile`."""
    data = options.get("calibration")
    checked = check_options({**options, "calibration": None if data is None else load_data(data)})
    with_model_of_command(
        spec, inputs, weights, eval_mode, lambda model, args, named: export_model(model, output, args, named, checked)
    )


def integers_of(
    model: Any, inputs: Any, kwargs: Mapping[str, Any] | None, options: Options, report: Progress
) -> Program:
    """The integer program of a model, with no layer in float but those that have to be or are named."""
    how = options.precision
    if not isinstance(how, Quantization):
        raise OptionError(
            f"precision={how!r} is exported, and ONNX files are written of integer networks.", "Give 'int8'."
        )
    if how.evaluate is not None:
        raise OptionError(
            "evaluate= scores compiled models, and none is compiled for an export.",
            "Compile with it once, and name the layers that it kept in float: keep_float=[...].",
        )
    if isinstance(model, BringsIntegers):
        return model.planish_integers(inputs, kwargs, options)[1].integer
    report("capture", 0, 1)
    captured, examples = captured_with(model, inputs, kwargs, options.preprocess)
    report("capture", 1, 1)
    optimized = optimize(with_codes(captured, options), options.passes, options.verify, report)
    quantized = quantized_of(optimized, options, report, examples)
    assert quantized is not None
    return quantized.integer


def _writer() -> Write:
    """What writes ONNX files, if the package for that is there."""
    try:
        from .backends.onnx.export import write
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingDependencyError(
            "Exporting needs onnx, which is not installed.", "Install the extra: pip install 'planish[compile,onnx]'"
        ) from None
    return write
