"""`planish tune MODEL`: search for faster kernels, for as long as one likes, and keep them in the tuning database;
export, import and show that database.

A word after `tune` that is none of its commands is the model: `planish tune MODEL` is `planish tune model MODEL`.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .cli_options import (
    AllowFloat,
    Calibration,
    Equalize,
    Eval,
    Evaluate,
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


class _ModelFirst(TyperGroup):
    """A group whose commands may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the command where the first word is none."""
        known = not args or args[0] in (*self.commands, "-h", "--help")
        return super().parse_args(ctx, args if known else ["model", *args])


app = typer.Typer(
    cls=_ModelFirst,
    help="Search for faster kernels: `planish tune MODEL`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def model(
    model: Model,
    seconds: Annotated[str, typer.Option("--tune", metavar="TIME", help="How long: 90, 90s, 2m or 1h.")] = "2m",
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write the compiled model, too.")] = None,
    input: Inputs = None,
    weights: Weights = None,
    target: Target = "native",
    threads: Threads = None,
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
    tuning_db: TuningDb = None,
    rpc: Rpc = None,
    metaschedule: MetaSchedule = False,
    as_json: Json = False,
) -> None:
    """Tune MODEL's kernels on this machine; later compilations take them from the database."""
    from . import _compiler
    from .show import show_tuning

    specs = pairs(input or [])
    if output is not None:
        check_writable(output)
    options = {
        "tune": seconds,
        "tuning_db": tuning_db,
        "rpc": rpc,
        "metaschedule": metaschedule,
        "target": target,
        "threads": threads,
        "precision": precision_of(
            precision, observer, keep_float, allow_float, equalize, evaluate, max_drop, no_measure
        ),
        "calibration": calibration,
        "numerics": numerics,
        "preprocess": image_of(mean, std, layout),
    }
    compiled = _compiler().compile_from_command(model, specs, weights, eval_mode, options)
    if output is not None:
        compiled.save(output)
    show_tuning(compiled.manifest, as_json)


@app.command("export")
def export_records(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write; - for standard output.")],
    tuning_db: TuningDb = None,
) -> None:
    """Write all that the tuning database knows as lines of JSON, for other machines of this kind."""
    from .backends.tvm.tune.exchange import export_file

    count = export_file(tuning_db, file)
    if file != "-":
        typer.echo(f"{file}: {count} entries")


@app.command("import")
def import_records(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A file that `planish tune export` wrote; - to read one.")
    ],
    tuning_db: TuningDb = None,
    as_json: Json = False,
) -> None:
    """Add what FILE knows to the tuning database; where both know a kernel, the faster one stays."""
    from .backends.tvm.tune.exchange import import_file
    from .show import show_import

    show_import(file, import_file(tuning_db, file), as_json)


@app.command("show")
def show_records(tuning_db: TuningDb = None, as_json: Json = False) -> None:
    """Show what the tuning database knows."""
    from .backends.tvm.tune.exchange import open_database
    from .show import show_database

    with open_database(tuning_db) as database:
        show_database(str(database.path), database.records(), database.all_attempts(), as_json)
