"""Runs an integer operator's kernel by hand, over several sets of inputs: the bits of the reference.

exact(fn, *sets): generic(fn)(*inputs) == fn(*inputs) for each set of inputs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from kernel_case import HOST, build, make_task
from torch import Tensor

from planish.backends.tvm.generic.template import Generic
from planish.backends.tvm.plan import PLAIN
from planish.backends.tvm.target import Target, parse_target
from planish.backends.tvm.template import Template
from planish.ir.capture import capture
from planish.ir.program import Program
from planish.ir.quantized.operators import OPERATORS
from planish.passes.manager import run_passes
from planish.passes.pipelines import EXACT, GROUP, INTEGER
from planish.passes.quantize.calibrate import calibrate
from planish.passes.quantize.integerize import integerize
from planish.passes.quantize.observers import MinMax

assert OPERATORS  # registered by their import
U8, S8, S16, S32 = torch.uint8, torch.int8, torch.int16, torch.int32
planish = torch.ops.planish
aten = torch.ops.aten
LAYOUTS = (PLAIN, "c16")


class Narrow(Target):
    """A CPU whose vectors are used up to 256 bits."""

    @property
    def lanes(self) -> int:
        """Of 32 bits."""
        return 8


# Dot products of bytes in 512 bits (here) and in 256, products of 16 bits in 512 and in 256, and one by one.
CPUS = {
    "vnni": HOST,
    "vnni256": Narrow(HOST.triple, HOST.cpu, HOST.features, HOST.threads),
    "halves": parse_target("skylake-avx512", 2),
    "halves256": parse_target("haswell", 2),
    "single": parse_target("x86-64", 2),
}


def grouped_and_reference(model: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Program, Program]:
    """Calibrated with this one batch: as it is compiled, and as it is specified."""
    program = run_passes(capture(model, tuple(args), kwargs), (*EXACT, *INTEGER))
    made = integerize(program, calibrate(program, [tuple(program.signature.flatten(tuple(args), kwargs))], MinMax))
    return run_passes(made, GROUP), made


def exact(
    fn: Callable[..., Any],
    *sets: Sequence[Tensor],
    layouts: Sequence[str] = (PLAIN,),
    shifts: dict[int, tuple[int, int]] | None = None,
    small: Sequence[int] = (),
    template: Template | None = None,
    **options: Any,
) -> None:
    """A kernel for each of `layouts` of the first input and the result; `shifts` and `small` go to placeholders."""
    for layout in layouts:
        task = make_task(fn, sets[0], layouts={0: layout}, hint=layout, **options)
        for position, bounds in (shifts or {}).items():
            task.region.placeholders[position].meta["shifts"] = bounds
        for position in small:
            task.region.placeholders[position].meta["small"] = True
        built = build(template or Generic(), task)
        for inputs in sets:
            expected = fn(*inputs)
            actual = torch.as_tensor(built.run(inputs))
            assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
            wrong = actual != expected
            assert not bool(wrong.any()), (
                f"{layout}: {int(wrong.sum())} of {wrong.numel()} differ: {actual[wrong][:9]} for {expected[wrong][:9]}"
            )


def codes(*shape: int, dtype: torch.dtype = U8, seed: int = 0) -> Tensor:
    """Random codes over all of a dtype."""
    limits = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randint(limits.min, limits.max + 1, shape, generator=generator, dtype=torch.int64).to(dtype)


def hostile(shape: Sequence[int], dtype: torch.dtype = U8) -> Iterator[Tensor]:
    """Random codes, all at the least, all at the largest, both in turns, and one impulse."""
    limits = torch.iinfo(dtype)
    yield codes(*shape, dtype=dtype)
    yield torch.full(tuple(shape), limits.min, dtype=dtype)
    yield torch.full(tuple(shape), limits.max, dtype=dtype)
    ends = torch.full(tuple(shape), limits.min, dtype=dtype).flatten()
    ends[::2] = limits.max
    yield ends.reshape(tuple(shape))
    impulse = torch.zeros(tuple(shape), dtype=dtype).flatten()
    impulse[impulse.numel() // 2] = limits.max
    yield impulse.reshape(tuple(shape))
