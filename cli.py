"""The `planish` command: compile, export, tune, run, bench, inspect, doctor.

Results go to standard output (`--json` for machines), progress and errors to standard error. Exit status: 0,
1 for an error that says what is wrong and what to do, 2 for a wrong command line, 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from . import cli_export, cli_tune
from .cli_options import (
    AllowFloat,
    Calibration,
    Equalize,
    Eval,
    Evaluate,
    File,
    Inputs,
    Json,
    KeepFloat,
    Layout,
    MaxDrop,
    Mean,
    MetaSchedule,
    Model,
    NoMeasure,
    Numerics,
    Observer,
    Precision,
    Rpc,
    Std,
    Target,
    Threads,
    TuningDb,
    Weights,
    check_writable,
    image_of,
    pairs,
    precision_of,
)
from .errors import PlanishError

app = typer.Typer(
    name="planish",
    help="Compile PyTorch models to one file of code tuned for one machine, and run such files without PyTorch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_tune.app, name="tune")
app.command()(cli_export.export)

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the signal's number, as shells count."""


def main() -> NoReturn:
    """Run the command and leave with its exit status."""
    sys.exit(status(sys.argv[1:]))


def status(arguments: Sequence[str]) -> int:
    """Run a command line; errors are two sentences on standard error, never a traceback."""
    try:
        code = int(app(list(arguments), standalone_mode=False) or 0)
        return _interrupted() if code == INTERRUPTED else code
    except PlanishError as error:
        return _fail(error)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except SystemExit:  # typer's answer to a reader of our output that is gone, as in `planish inspect x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # a wrong command line, in typer's own words
            error.show()
            return int(error.exit_code)
        return _fail(_defect(error))


def _interrupted() -> int:
    """After Ctrl-C; typer reports it as an exit status or as Abort, depending on its version."""
    print("planish: interrupted; no file is half-written.", file=sys.stderr)
    return INTERRUPTED


def _fail(error: PlanishError) -> int:
    """Print an error's two sentences."""
    print(f"planish: {error}", file=sys.stderr)
    return 1


def _defect(error: Exception) -> PlanishError:
    """An error that nobody foresaw."""
    if os.environ.get("PLANISH_TRACEBACK"):
        raise error
    return PlanishError(
        f"Unexpected {type(error).__name__}: {error}", "Report this; PLANISH_TRACEBACK=1 shows where it happened."
    )


@app.command()
def compile(
    model: Model,
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write.")],
    input: Inputs = None,
    weights: Weights = None,
    target: Target = "native",
    threads: Threads = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare rewrites and code with the model.")] = False,
    eval_mode: Eval = False,
    precision: Precision = "float32",
    calibration: Calibration = None,
    observer: Observer = None,
    keep_float: KeepFloat = None,
    allow_float: AllowFloat = False,
    equalize: Equalize = False,
    evaluate: Evaluate = None,
    max_drop: MaxDrop = None,
    no_measure: NoMeasure = False,
    numerics: Numerics = "fast",
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    tune: Annotated[
        str, typer.Option(metavar="TIME", help="Search for faster kernels for so long: 90, 90s, 2m or 1h.")
    ] = "0",
    tuning_db: TuningDb = None,
    rpc: Rpc = None,
    metaschedule: MetaSchedule = False,
    as_json: Json = False,
) -> None:
    """Compile MODEL for inference and write one file."""
    from . import _compiler
    from .show import show_compiled

    specs = pairs(input or [])
    check_writable(output)
    options = {
        "target": target,
        "threads": threads,
        "verify": verify,
        "numerics": numerics,
        "precision": precision_of(
            precision, observer, keep_float, allow_float, equalize, evaluate, max_drop, no_measure
        ),
        "calibration": calibration,
        "preprocess": image_of(mean, std, layout),
        "tune": tune,
        "tuning_db": tuning_db,
        "rpc": rpc,
        "metaschedule": metaschedule,
    }
    compiled = _compiler().compile_from_command(model, specs, weights, eval_mode, options)
    compiled.save(output)
    show_compiled(output, compiled.manifest, as_json)


@app.command()
def run(
    file: File,
    input: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="An input: name=file.npy; repeatable.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="A folder, or an .npz file, to write.")] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Run FILE on arrays and show, or write, the outputs."""
    from . import load
    from .arrays import read_array, write_arrays
    from .show import show_outputs

    paths = pairs(input or [])
    compiled = load(file, threads=threads)
    flat = compiled.signature.flatten_names({name: read_array(path) for name, path in paths.items()})
    values = compiled.run_flat(flat)
    outputs = dict(zip([spec.name for spec in compiled.signature.outputs], values, strict=True))
    written = write_arrays(outputs, output) if output is not None else []
    show_outputs(outputs, written, as_json)


@app.command()
def bench(
    file: File,
    threads: Threads = None,
    repeat: Annotated[int, typer.Option(min=1, help="Calls to time.")] = 100,
    warmup: Annotated[int, typer.Option(min=0, help="Calls before that.")] = 10,
    profile: Annotated[bool, typer.Option("--profile", help="Also time each kernel call, by layer.")] = False,
    roofline: Annotated[str | None, typer.Option(help="Draw that profile: an .svg, .png or .pdf file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the latency of FILE on random inputs."""
    from . import load
    from .backends.tvm.roofline import check_picture
    from .backends.tvm.selftest import inputs
    from .bench import measure
    from .progress import showing
    from .show import show_bench

    if roofline:
        check_writable(roofline)
        check_picture(roofline)
    compiled = load(file, threads=threads)
    flat = inputs(compiled.signature)
    with showing(False if as_json else None) as report:
        result = measure(lambda: compiled.run_flat(flat), repeat, warmup, report=report)
    calls = compiled.profile_flat(flat) if profile or roofline else None
    if calls is not None and roofline:
        calls.roofline(roofline)
    show_bench(file, compiled.threads, result, calls, as_json)


@app.command()
def inspect(file: File, as_json: Json = False) -> None:
    """Show what is in FILE: signature, target, sizes, what each pass did and refused, and the calls."""
    from .backends.tvm.artifact import Artifact
    from .show import show_manifest

    show_manifest(file, Artifact.open(file).manifest, as_json)


@app.command()
def doctor(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="An artifact to test here.")] = None,
    rpc: Annotated[
        str | None, typer.Option(metavar="HOST:PORT/KEY", help="Examine a device behind TVM's tracker, hop by hop.")
    ] = None,
    target: Annotated[str, typer.Option(help="What the device is, with --rpc.")] = "native",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check versions, CPU and linker, compile a small model, and test FILE on this machine."""
    from .doctor import examine
    from .show import show_checks

    if not show_checks(examine(file, rpc, target, threads), as_json):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Take the options before any command."""
    if version:
        from . import __version__

        print(f"planish {__version__}")
        raise typer.Exit


if __name__ == "__main__":
    main()
