"""`planish export`: a model as integers in an ONNX file, which other engines run."""

from __future__ import annotations

from typing import Annotated

import typer

from .cli_options import (
    AllowFloat,
    Calibration,
    Equalize,
    Eval,
    Inputs,
    KeepFloat,
    Layout,
    Mean,
    Model,
    Observer,
    Std,
    Weights,
    check_writable,
    image_of,
    pairs,
    precision_of,
)


def export(
    model: Model,
    output: Annotated[str, typer.Option("--output", "-o", help="The .onnx file to write.")],
    input: Inputs = None,
    weights: Weights = None,
    eval_mode: Eval = False,
    calibration: Calibration = None,
    observer: Observer = None,
    keep_float: KeepFloat = None,
    allow_float: AllowFloat = False,
    equalize: Equalize = False,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare rewrites with the model.")] = False,
) -> None:
    """Quantize MODEL and write it as an ONNX file, for other engines."""
    from . import _exporting

    specs = pairs(input or [])
    check_writable(output)
    options = {
        "precision": precision_of("int8", observer, keep_float, allow_float, equalize),
        "calibration": calibration,
        "preprocess": image_of(mean, std, layout),
        "verify": verify,
    }
    _exporting().export_from_command(model, output, specs, weights, eval_mode, options)
    print(output)
