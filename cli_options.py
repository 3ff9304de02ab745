"""What several commands take: options with their help, and how their values are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .errors import OptionError, OutputError
from .ir.image import Image
from .quantization import OBSERVERS, Quantization

File = Annotated[str, typer.Argument(metavar="FILE", help="A file that `planish compile` wrote.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A .pt2 file, or package.module:factory.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=SPEC", help="Example input: name=f32[1,3,224,224] or name=file.npy; repeatable."),
]
Weights = Annotated[str | None, typer.Option(help="A safetensors file to load into the model.")]
Eval = Annotated[bool, typer.Option("--eval", help="Call model.eval() before compiling.")]
Threads = Annotated[int | None, typer.Option(help="Threads to use; all cores this process may use by default.")]
Precision = Annotated[
    str, typer.Option(help='"float32", "bfloat16" (half the bytes), or "int8": integers, with --calibration.')
]
Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="DATA", help="Typical inputs for int8: file.npy, file.npz by names, or package.module:loader."
    ),
]
Observer = Annotated[
    str | None,
    typer.Option(help='How ranges follow: "mse" (if not given), "minmax", "moving_average", "percentile", "entropy".'),
]
KeepFloat = Annotated[
    list[str] | None,
    typer.Option(metavar="LAYER", help='A layer, or a pattern ("head.*"), to keep in float; repeatable.'),
]
AllowFloat = Annotated[
    bool, typer.Option("--allow-float", help="Keep in float what has no integer form, or is faster so here.")
]
Equalize = Annotated[
    bool, typer.Option("--equalize", help="Make channels of layers that follow one another alike before int8.")
]
Evaluate = Annotated[
    str | None,
    typer.Option(
        metavar="FUNCTION",
        help="Keep the noisiest layers in float until package.module:function, a score, says enough.",
    ),
]
MaxDrop = Annotated[float | None, typer.Option(help="With --evaluate: so far the score may fall; 0.005 by default.")]
NoMeasure = Annotated[bool, typer.Option("--no-measure", help="Do not time the layers of an int8 model in float.")]
Numerics = Annotated[str, typer.Option(help='"fast", or "strict": keep NaN and inf exactly.')]
TuningDb = Annotated[str | None, typer.Option(metavar="PATH", help="The tuning database; your own while tuning.")]
Rpc = Annotated[
    str | None, typer.Option(metavar="HOST:PORT/KEY", help="Tune for a device behind TVM's tracker, which measures.")
]
Mean = Annotated[
    str | None,
    typer.Option(metavar="NUMBERS", help="Compile the preprocessing in: the mean of each channel, of 0 to 1."),
]
Std = Annotated[str | None, typer.Option(metavar="NUMBERS", help="The same: the standard deviation of each channel.")]
Layout = Annotated[str | None, typer.Option(help='The same: "NHWC" or "NCHW", of the uint8 images that it takes.')]
MetaSchedule = Annotated[
    bool, typer.Option("--metaschedule", help="While tuning, let TVM's MetaSchedule search where no template fits.")
]
Target = Annotated[str, typer.Option(help='"native", an LLVM cpu name, or arch:cpu.')]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a machine to read.")]


def pairs(texts: list[str]) -> dict[str, str]:
    """`name=value` options as a dict."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise OptionError(f"--input {text} is not name=value.", "Write --input x=f32[1,3,224,224] or x=file.npy.")
        if name in found:
            raise OptionError(f"--input {name} is given twice.", "Give each input once.")
        found[name] = value
    return found


def precision_of(
    precision: str,
    observer: str | None = None,
    keep_float: list[str] | None = None,
    allow_float: bool = False,
    equalize: bool = False,
    evaluate: str | None = None,
    max_drop: float | None = None,
    no_measure: bool = False,
) -> str | Quantization:
    """What --precision says, with the options that only int8 has."""
    if precision == "int8":
        return Quantization(
            observer or OBSERVERS[0],
            keep_float=tuple(keep_float or ()),
            integer_only=False if allow_float else None,
            evaluate=None if evaluate is None else _function(evaluate),
            max_drop=max_drop,
            measure=not no_measure,
            equalize=equalize,
        )
    given: dict[str, object] = {
        "--observer": observer,
        "--keep-float": keep_float,
        "--allow-float": allow_float,
        "--evaluate": evaluate,
    }
    given |= {"--max-drop": max_drop is not None, "--no-measure": no_measure, "--equalize": equalize}
    for option, value in given.items():
        if value:
            raise OptionError(f"{option} means nothing for {precision!r}.", "Give --precision int8 with it.")
    return precision


def _function(spec: str) -> Callable[[Any], Any]:
    """What --evaluate names."""
    from .models import load_function

    return load_function(spec)


def image_of(mean: str | None, std: str | None, layout: str | None) -> Image | None:
    """The preprocessing that --mean, --std and --layout describe; None without any of them."""
    if mean is None and std is None and layout is None:
        return None
    return Image(_numbers("--mean", mean or "0"), _numbers("--std", std or "1"), layout or "NHWC")


def _numbers(option: str, text: str) -> float | tuple[float, ...]:
    """`0.5`, or `0.485,0.456,0.406`."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"{option} {text} is no list of numbers.", f"Write {option} 0.485,0.456,0.406.") from None
    return numbers if len(numbers) > 1 else numbers[0]


def check_writable(path: str) -> None:
    """Fail before a long compilation if the file could not be written after it."""
    if not path or (os.path.exists(path) and not os.path.isfile(path)):
        raise OutputError(f"{path or 'An empty name'} cannot be written: it is no file.", "Give the name of a file.")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise OutputError(f"There is no folder {folder}.", "Create it, or give another --output.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path} cannot be written.", "Give the name of a file in a writable folder.")
