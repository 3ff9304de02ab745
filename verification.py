"""verify=True, the last step: does the compiled code compute what the captured model computes?

max|compiled - reference64|  <=  4 max|eager32 - reference64| + 8 ulp(max|reference64|)

On a difference it says which half is to blame, by running the rewritten program in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .backends.tvm import selftest
from .backends.tvm.runtime import Compiled
from .errors import MiscompiledError
from .ir.interpret import eager, in_bfloat16, reference
from .ir.program import Program
from .ir.rounding import allowed, worst
from .ir.signature import Signature

Tensors = Sequence[torch.Tensor]


def check_compiled(
    compiled: Compiled,
    captured: Program,
    grouped: Program,
    examples: Tensors | None = None,
    precision: str = "float32",
) -> None:
    """Raise MiscompiledError if an output is further from the float64 reference than rounding explains.

    Code for another machine cannot run here; then the rewritten program stands in for it. In bfloat16 the model is
    compared with itself run in bfloat16, and what is no floating-point number is not: a near tie may fall either way.
    """
    inputs = list(examples) if examples is not None else _seeded(captured.signature)
    narrow = precision == "bfloat16"
    exact, own = reference(captured, inputs), eager(captured, inputs)
    if narrow:
        own = tuple(n.to(o.dtype) for n, o in zip(in_bfloat16(captured, inputs), own, strict=True))
    rewritten = eager(grouped, inputs)
    actual = compiled.run_flat(inputs) if compiled.runs_here else rewritten
    for spec, want, near, got, half in zip(captured.signature.outputs, exact, own, actual, rewritten, strict=True):
        if narrow and not near.dtype.is_floating_point:
            continue
        rounds = torch.bfloat16 if narrow and near.dtype is torch.float32 else near.dtype
        said = difference(torch.as_tensor(got), want, near, rounds)
        if said is not None:
            blame = "code generation" if difference(half, want, near, rounds) is None else "the passes"
            raise MiscompiledError(
                f"verify=True: output {spec.name!r} of the compiled model {said}; the fault is in {blame}.",
                "Do not use this result. Report it with the model"
                + ("." if blame == "code generation" else ", or leave passes out to find the one at fault."),
            )


def check_integers(compiled: Compiled, captured: Program, grouped: Program, examples: Tensors | None = None) -> None:
    """Raise MiscompiledError if compiled integers are not the reference's, bit for bit.

    Where layers stay in float, whose rounding may tip a code, the code may be at most twice as far from the model as
    the reference is.
    """
    if not compiled.runs_here:
        return
    inputs = list(examples) if examples is not None else _seeded(captured.signature)
    exact, own, actual = reference(captured, inputs), eager(grouped, inputs), compiled.run_flat(inputs)
    mixed = any(layer.reason for entry in grouped.report if entry.name == "integerize" for layer in entry.refused)
    for spec, want, near, got in zip(captured.signature.outputs, exact, own, actual, strict=True):
        found = torch.as_tensor(got)
        tipped = mixed and near.dtype.is_floating_point and _far(found, want) <= 2 * _far(near, want)
        if not (torch.equal(found, near) or tipped):
            raise MiscompiledError(
                f"verify=True: output {spec.name!r} of the compiled model differs from the integer reference in "
                f"{int((found != near).sum())} of {found.numel()} elements; the fault is in code generation.",
                "Do not use this result. Report it with the model.",
            )


def _far(values: torch.Tensor, exact: torch.Tensor) -> float:
    """The root of the summed square of differences."""
    return float((values - exact).square().sum().sqrt())


def _seeded(signature: Signature) -> list[torch.Tensor]:
    """The self-test's inputs."""
    arrays = zip(selftest.inputs(signature), signature.inputs, strict=True)
    return [torch.from_numpy(a).view(getattr(torch, spec.dtype)) for a, spec in arrays]


def difference(
    got: torch.Tensor, exact: torch.Tensor, own: torch.Tensor, rounds: torch.dtype | None = None
) -> str | None:
    """What is wrong with `got`, or None if it is as near to `exact` as PyTorch's `own` rounding allows.

    `rounds` is the dtype that values were rounded to on the way, the outputs' own by default.
    """
    if got.shape != own.shape or got.dtype != own.dtype:
        return f"is {got.dtype} {list(got.shape)} instead of {own.dtype} {list(own.shape)}"
    if not own.dtype.is_floating_point:
        wrong = int((got != own).sum())
        return f"differs in {wrong} of {got.numel()} elements" if wrong else None
    finite = own.isfinite()
    odd = got.where(~finite, 0.0)
    if not torch.equal(got.isfinite(), finite) or not torch.allclose(odd, own.where(~finite, 0.0), equal_nan=True):
        return "is not finite where the model's is, or the other way round"
    error, bound = worst(got[finite] - exact[finite]), allowed(exact, own, rounds)
    return None if error <= bound else f"is off by {error:.3g}, where {bound:.3g} is allowed"
