"""Every error planish raises. Imports nothing, so that the runtime can use it without torch or TVM.

An error says what is wrong (file, layer, op, value) in one sentence and what to do in another:
`str(e) == f"{what}\n  {todo}"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class PlanishError(Exception):
    """Base of all planish errors: `what` is wrong and what `todo` about it."""

    def __init__(self, what: str, todo: str) -> None:
        """Keep both sentences; `str()` shows them on two lines."""
        super().__init__(f"{what}\n  {todo}")
        self.what = what
        self.todo = todo

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the two sentences, so that errors cross process borders."""
        return (_rebuild, (type(self), self.what, self.todo, self.__dict__))


def _rebuild(kind: type[PlanishError], what: str, todo: str, state: dict[str, object]) -> PlanishError:
    """Unpickle an error without calling a subclass's own constructor."""
    error = kind.__new__(kind, f"{what}\n  {todo}")
    Exception.__init__(error, f"{what}\n  {todo}")
    error.__dict__.update(state)
    return error


class OptionError(PlanishError):
    """An option, target or precision that does not exist or does not fit the others."""


class ModelError(PlanishError):
    """The MODEL argument cannot be turned into a module: no such file, factory or weight."""


class CaptureError(PlanishError):
    """torch.export could not turn the model into a graph."""


class TrainModeError(CaptureError):
    """The model is in train mode; only inference graphs can be compiled."""


class DynamicShapeError(CaptureError):
    """A dimension is symbolic where only static shapes are supported."""


class MutatedBufferError(CaptureError):
    """The forward pass writes a buffer, parameter or input."""


class UnsupportedOp(NamedTuple):
    """One operator that no part of planish can lower, and where it came from."""

    op: str
    reason: str
    layer: str
    source: str


class UnsupportedOperators(PlanishError):
    """The model uses operators that planish cannot lower; `ops` lists them all."""

    def __init__(self, ops: Sequence[UnsupportedOp]) -> None:
        """Group by operator: count, reason, then each layer with file:line."""
        self.ops = tuple(ops)
        super().__init__(
            _listed(self.ops, "cannot be compiled"),
            'Rewrite these operators in the model, or use torch.compile(model, backend="planish"), '
            "which runs them in eager.",
        )


def _listed(ops: Sequence[UnsupportedOp], what: str) -> str:
    """Operators by kind and reason, with all their places."""
    kinds: dict[tuple[str, str], list[UnsupportedOp]] = {}
    for op in ops:
        kinds.setdefault((op.op, op.reason), []).append(op)
    lines = [f"{len(ops)} operator call(s) of {len(kinds)} kind(s) {what}:"]
    for (name, reason), sites in kinds.items():
        lines.append(f"  {len(sites)} x {name}: {reason}")
        lines += [f"      in {s.layer or '(top level)'} at {s.source or '(unknown source)'}" for s in sites]
    return "\n".join(lines)


class VerifyError(PlanishError):
    """A Program breaks its stage's contract: a defect of the pass that made it."""


class TextError(PlanishError):
    """A text form that does not parse; the message has line and column."""


class QuantizationError(PlanishError):
    """A scale, range or value that integer arithmetic cannot hold."""


class AccumulatorOverflow(QuantizationError):
    """A sum of products that does not fit 32 bits."""


class NoIntegerForm(QuantizationError):
    """The model uses operators that have no integer form; `ops` lists them all."""

    def __init__(self, ops: Sequence[UnsupportedOp]) -> None:
        """Group by operator: count, reason, then each layer with file:line."""
        self.ops = tuple(ops)
        super().__init__(
            _listed(self.ops, "have no integer form"),
            "Keep these layers in float by name, allow floats with integer_only=False, or rewrite them in the model.",
        )


class NoOnnxForm(PlanishError):
    """Operators of an integer program that cannot be said in ONNX; `ops` lists them all."""

    def __init__(self, ops: Sequence[UnsupportedOp]) -> None:
        """Group by operator: count, reason, then each layer with file:line."""
        self.ops = tuple(ops)
        super().__init__(
            _listed(self.ops, "have no ONNX form"), "Rewrite these operators in the model, or compile it as it is."
        )


class NotImported(QuantizationError):
    """A graph that others quantized says what our integers cannot mean; `ops` lists all of it."""

    def __init__(self, ops: Sequence[UnsupportedOp]) -> None:
        """Group by operator: count, reason, then each layer with file:line."""
        self.ops = tuple(ops)
        super().__init__(
            _listed(self.ops, "of a quantized graph cannot be imported"),
            "Quantize statically with one scale an activation and one a channel of weights, in 8 bits; or give planish "
            'the float model: precision="int8" with calibration=loader quantizes it.',
        )


class RewriteMismatch(PlanishError):
    """verify=True found a rewrite that changes the numbers at its boundary."""


class MiscompiledError(PlanishError):
    """verify=True found compiled code that computes something else than the model."""


class InputError(PlanishError):
    """An input with the wrong name, structure, dtype, rank or shape."""


class ArtifactError(PlanishError):
    """An artifact file that is missing, truncated, altered or unreadable."""


class NewerFormatError(ArtifactError):
    """An artifact written by a newer planish than this one."""


class CpuFeatureError(ArtifactError):
    """An artifact that needs CPU features this machine lacks."""


class OutputError(PlanishError):
    """A file that cannot be written: no permission, no such folder, disk full."""


class TargetError(PlanishError):
    """A target that LLVM does not know or planish has no kernels for."""


class CodegenError(PlanishError):
    """TVM, LLVM or the linker failed on a kernel; names the region and its layers."""


class TuningError(PlanishError):
    """Kernels cannot be measured: the measuring process, its lock or its memory."""


class TuningDatabaseError(TuningError):
    """A tuning database or an export of one that is damaged, foreign, newer or cannot be written."""


class RpcError(TuningError):
    """A device reached over RPC; names the hop that fails."""


class MissingDependencyError(PlanishError):
    """A part of planish that needs an extra which is not installed."""


def missing_extra(error: ModuleNotFoundError) -> Exception:
    """What to raise for an import that failed: how to install the extra, or the error itself if it is our own."""
    name = (error.name or "").partition(".")[0]
    if name in ("", "planish"):
        return error
    return MissingDependencyError(
        f"Compiling needs {name}, which is not installed.", "Install the compiler extra: pip install 'planish[compile]'"
    )
