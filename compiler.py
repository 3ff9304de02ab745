"""The driver: capture, passes, the check for unsupported operators, code. Every door goes through here.

compile_model = backend.compile ∘ group ∘ check_supported ∘ lower_precision ∘ optimize ∘ capture
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch.export import ExportedProgram

from .backends.partition import Supports, partition
from .errors import ModelError, OptionError, TrainModeError, UnsupportedOperators
from .ir.capture import capture, load_exported
from .ir.image import Image
from .ir.program import Program, Stage
from .models import example_inputs, load_data, load_model
from .options import Options, Progress, check_options, needs_data
from .passes.base import Pass, Repeat, Step, flat
from .passes.manager import run_passes
from .passes.pipelines import BFLOAT16, EXACT, GROUP, IMPORTED
from .passes.pipelines import pipeline as named_pipeline
from .passes.preprocess.take_images import image_item, model_inputs, take_images, to_pixels
from .passes.quantize.imported.given_plan import is_imported
from .passes.quantize.imported.parameters import is_quantized
from .progress import showing, silent
from .quantization import Quantization

if TYPE_CHECKING:
    from .backends.tvm.backend import TvmBackend
    from .backends.tvm.runtime import Compiled
    from .backends.tvm.tune.session import Tuning
    from .layer_times import Network
    from .quantizing import Quantized

Result = TypeVar("Result")


@runtime_checkable
class BringsIntegers(Protocol):
    """A model that was trained in integers (`training.FakeQuantized`) says itself what they are."""

    def planish_integers(
        self, inputs: Any, kwargs: Mapping[str, Any] | None, options: Options
    ) -> tuple[Program, Quantized, Options]:
        """What was captured, its integers, and the options that they were made with."""


def compile_model(model: Any, inputs: Any, kwargs: Mapping[str, Any] | None, options: Options) -> Compiled:
    """`planish.compile`, its options checked."""
    from .backends.tvm.backend import TvmBackend
    from .verification import check_compiled, check_integers

    with showing(options.progress) as report:
        backend = TvmBackend(options.target, options.threads, options.numerics)
        backend.warm()
        report("capture", 0, 1)
        examples: list[torch.Tensor] | None
        quantized: Quantized | None
        if isinstance(model, BringsIntegers):
            captured, quantized, options = model.planish_integers(inputs, kwargs, options)
            optimized, examples = quantized.prepared, list(quantized.batch)
            report("capture", 1, 1)
        else:
            captured, examples = captured_with(model, inputs, kwargs, options.preprocess)
            report("capture", 1, 1)
            captured = with_codes(captured, options)
            optimized = optimize(captured, options.passes, options.verify, report)
            quantized = quantized_of(optimized, options, report, examples)
        lowered = lower_precision(optimized, options.precision) if quantized is None else quantized.integer
        check_supported(lowered, backend.supports)
        grouped = group(lowered, options.verify)
        record = _record(options, quantized)
        compiled = backend.compile(grouped, progress=report, record=record, tuning=tuning_of(options))
        if quantized is not None and quantized.batch:
            compiled, grouped = with_floats(captured, quantized, (compiled, grouped), backend, options, report)
        if options.verify:
            report("verify", 0, 1)
            if quantized is None:
                check_compiled(compiled, captured, grouped, examples, str(options.precision))
            else:
                check_integers(compiled, captured, grouped, examples)
            report("verify", 1, 1)
    return compiled


def tuning_of(options: Options) -> Tuning | None:
    """What the options say of tuning; None if nothing is to be tuned and no database asked."""
    from .backends.tvm.tune.session import Tuning

    if not options.tune and options.tuning_db is None and options.rpc is None:
        return None
    return Tuning(float(options.tune), options.tuning_db, options.rpc, options.metaschedule)


def compile_from_command(
    spec: str, inputs: Mapping[str, str], weights: str | None, eval_mode: bool, options: Mapping[str, Any]
) -> Compiled:
    """`planish compile`: MODEL, --input, --weights and --eval as written on the command line."""
    data = options.get("calibration")
    checked = check_options({**options, "calibration": None if data is None else load_data(data)})
    return with_model_of_command(
        spec, inputs, weights, eval_mode, lambda model, args, examples: compile_model(model, args, examples, checked)
    )


def with_model_of_command(
    spec: str,
    inputs: Mapping[str, str],
    weights: str | None,
    eval_mode: bool,
    use: Callable[[Any, Any, Mapping[str, Any] | None], Result],
) -> Result:
    """`use(model, args, kwargs)` of a model and the inputs that the command line describes."""
    model = load_model(spec, weights)
    if isinstance(model, torch.nn.Module):
        if eval_mode:
            model.eval()
        examples = example_inputs(model, inputs)
        try:
            return use(model, (), examples)
        except TrainModeError as error:
            raise TrainModeError(error.what, f"{error.todo[:-1]}; on the command line: --eval.") from error
    if inputs:
        raise OptionError(f"{spec} has its own example inputs.", "Leave --input out.")
    return use(model, None, None)


def rewrite_model(
    model: Any, inputs: Any, kwargs: Mapping[str, Any] | None, passes: str | Sequence[Step], verify: bool
) -> Program:
    """`planish.rewrite`."""
    program = model if isinstance(model, Program) else capture_model(model, inputs, kwargs)
    return run_passes(program, pipeline(passes), verify=verify)


def capture_model(model: Any, inputs: Any, kwargs: Mapping[str, Any] | None, name: str | None = None) -> Program:
    """A Program from whatever `planish.compile` takes."""
    if not (inputs is None or isinstance(inputs, torch.Tensor | tuple | list)):
        raise OptionError(
            f"example_inputs is a {type(inputs).__name__}, not a tuple of the model's arguments.",
            "Give (x, y) for model(x, y), ({...},) for model({...}), or example_kwargs={...} for inputs by name.",
        )
    if not (kwargs is None or isinstance(kwargs, Mapping)):
        raise OptionError(
            f"example_kwargs is a {type(kwargs).__name__}, not a dict of inputs by name.",
            "Give {'mask': mask} for model(..., mask=mask), or leave it out.",
        )
    if isinstance(model, BringsIntegers):
        raise ModelError("A fake-quantized module is compiled to integers alone.", "Give precision='int8'.")
    return capture(model, () if inputs is None else inputs, kwargs, name=name)


def captured_with(
    model: Any, inputs: Any, kwargs: Mapping[str, Any] | None, image: Image | None
) -> tuple[Program, list[torch.Tensor] | None]:
    """What the model does with `image` in front of it, and the example inputs in its order, if there are any.

    What was exported brings its own, unless it was stripped of them.
    """
    if image is not None:
        inputs, kwargs = model_inputs((inputs, kwargs), image)
    if isinstance(model, str | os.PathLike):
        model, name = load_exported(model), Path(model).stem
    else:
        name = None
    program, examples = capture_model(model, inputs, kwargs, name), None
    if isinstance(model, ExportedProgram) and inputs is None and kwargs is None:
        inputs, kwargs = model.example_inputs or (None, None)
    if inputs is not None or kwargs is not None:
        args = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs or ())
        examples = program.signature.flatten(args, kwargs)
    if image is not None:
        program, place = take_images(program, image)
        if examples is not None:
            examples[place] = to_pixels(examples[place], image)
    return program, examples


def optimize(
    program: Program,
    passes: str | Sequence[Step] | None = None,
    verify: bool = False,
    progress: Progress = silent,
) -> Program:
    """CAPTURED to OPTIMIZED: the default pipeline, or the passes that are named."""
    steps = (IMPORTED if is_imported(program) else EXACT) if passes is None else pipeline(passes)
    done, count = itertools.count(1), len(flat(steps))
    progress("passes", 0, count)
    program = run_passes(
        program, steps, verify=verify, trace=lambda *_: progress("passes", min(next(done), count), count)
    )
    progress("passes", count, count)
    if program.stage >= Stage.GROUPED:
        raise OptionError(
            f"passes={passes!r} groups the program into regions, which compiling does by itself.",
            "Give passes that end before grouping, such as 'exact'.",
        )
    return program


def lower_precision(program: Program, precision: object) -> Program:
    """OPTIMIZED to OPTIMIZED, in the floating precision that the user asked for."""
    return run_passes(program, BFLOAT16) if precision == "bfloat16" else program


def with_codes(captured: Program, options: Options) -> Program:
    """What was captured; codes that others gave it are read for integers, computed in float for other precisions."""
    integers = isinstance(options.precision, Quantization)
    if is_quantized(captured):
        from .passes.quantize.imported.expand_codes import ExpandCodes
        from .passes.quantize.imported.read_codes import read_codes

        read = read_codes(captured)
        return read if integers else run_passes(read, [ExpandCodes()])
    if integers and options.calibration is None:
        raise needs_data()
    return captured


def quantized_of(
    program: Program, options: Options, progress: Progress, examples: list[torch.Tensor] | None
) -> Quantized | None:
    """OPTIMIZED to QUANTIZED, if the user asked for integers."""
    if not isinstance(options.precision, Quantization):
        return None
    from .quantizing import quantize, take_codes

    if options.calibration is None:
        if not examples:
            _check_without_inputs(options.precision)
        return take_codes(program, options.precision, examples or ())
    return quantize(program, options.precision, options.calibration, partial(selected, options), progress)


def _check_without_inputs(how: Quantization) -> None:
    """Layers are put into float by what they do to inputs; without any, asking for that is refused."""
    if how.evaluate is not None:
        wish, instead = "evaluate", ""
    elif not how.integer_only and how.measure:
        wish, instead = "integer_only=False", ", or measure=False: then only what has no integer form is in float"
    else:
        return
    raise OptionError(
        f"Quantization: {wish} measures the model, which came with its codes, but without inputs.",
        f"Give example inputs or calibration={instead}.",
    )


def selected(options: Options, item: Any) -> Any:
    """A calibration item without labels, and as images where these are taken."""
    chosen = item if options.select is None else options.select(item)
    return chosen if options.preprocess is None else image_item(chosen, options.preprocess)


def with_floats(
    captured: Program,
    quantized: Quantized,
    network: Network,
    backend: TvmBackend,
    options: Options,
    progress: Progress,
) -> Network:
    """An integer model with the layers in float that should be, and its fidelity on the first calibration batch."""
    from .float_layers import Clock, finished

    known = None if (tuning := tuning_of(options)) is None else replace(tuning, seconds=0.0, rpc=None)
    record = _record(options, quantized)

    def make(program: Program) -> Network:
        grouped = group(program)
        return backend.compile(grouped, progress=progress, record=record, tuning=known), grouped

    assert isinstance(options.precision, Quantization)
    clock = Clock() if network[0].runs_here and options.rpc is None else None
    compiled, grouped = finished(captured, quantized, network, options.precision, make, clock, progress)
    tuned = {"tuning": network[0].manifest["tuning"]} if options.tune else {}  # what was found is of integers alone
    return (compiled.described(**tuned) if tuned else compiled), grouped


def group(program: Program, verify: bool = False) -> Program:
    """OPTIMIZED to GROUPED: one region for each kernel."""
    return run_passes(program, GROUP, verify=verify)


def pipeline(passes: str | Iterable[Step]) -> tuple[Step, ...]:
    """A pipeline by name, or the list of passes that was given."""
    if isinstance(passes, str):
        return named_pipeline(passes)
    if not isinstance(passes, Iterable):
        raise OptionError(f"passes={passes!r} is no list of passes.", "Give a pipeline's name, or a list of passes.")
    steps = tuple(passes)
    for step in steps:
        if not isinstance(step, Pass | Repeat):
            name = step.__name__ if isinstance(step, type) else repr(step)
            raise OptionError(f"passes holds {name}, which is not a pass.", "Give instances of Pass, as in [MyPass()].")
    return steps


def check_supported(program: Program, supports: Supports) -> None:
    """Raise UnsupportedOperators, which lists every call that a backend refuses."""
    refused = partition(program, supports).refused
    if refused:
        raise UnsupportedOperators(refused)


def _record(options: Options, quantized: Quantized | None) -> dict[str, Any]:
    """What of the options an artifact keeps."""
    passes = options.passes if options.passes is None or isinstance(options.passes, str) else "custom"
    integers = options.precision.to_json() if isinstance(options.precision, Quantization) else None
    if integers is not None and quantized is not None and is_imported(quantized.prepared):
        watches = () if options.calibration is None else ("observer", "momentum", "kept")  # what the graph left open
        kept = {name: value for name, value in integers.items() if name in (*watches, "keep_float", "integer_only")}
        integers = {"codes": "imported", **kept}
    return {
        "target": options.target,
        "threads": options.threads,
        "passes": passes,
        "precision": options.precision if integers is None else "int8",
        "quantization": integers,
        "numerics": options.numerics,
        "tune": options.tune,
        "preprocess": options.preprocess and options.preprocess.to_json(),
    }
