"""The vector inside an artifact: seeded inputs that need no storage, and the outputs they gave when it was made.

run(inputs(signature)) == expected      up to 1e-4 of the output's scale, and exactly for integers
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from ...errors import ArtifactError
from ...ir.signature import Signature, TensorSpec
from .plan import from_memory

_SAMPLES = 4096
_TOLERANCE = 1e-4


def inputs(signature: Signature) -> list[np.ndarray]:
    """One array for each input: floats in [-1, 1) (bfloat16 as bits), integers 0 and 1 (valid indices), booleans."""
    return [_array(index, spec) for index, spec in enumerate(signature.inputs)]


def sample(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What is kept of the outputs: at most 4096 evenly spaced elements of each."""
    kept = []
    for output in outputs:
        flat = np.ascontiguousarray(output).reshape(-1)
        kept.append(flat[:: max(1, -(-flat.size // _SAMPLES))].copy())
    return kept


def check(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], signature: Signature, name: str) -> float:
    """The largest difference relative to the scale; raises ArtifactError where it is too large."""
    worst = 0.0
    for index, (got, want) in enumerate(zip(sample(outputs), expected, strict=True)):
        dtype = signature.outputs[index].dtype
        worst = max(worst, _difference(from_memory(got, dtype), from_memory(want, dtype)))
        if not worst <= _TOLERANCE:
            raise ArtifactError(
                f"{name} fails its self-test: output {index} differs by {worst:.3g} of its scale.",
                "The machine or the file is defective; compile the model again on this machine.",
            )
    return worst


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    if got.shape != want.shape or got.dtype != want.dtype:
        return math.inf
    if not np.issubdtype(want.dtype, np.floating):
        return 0.0 if np.array_equal(got, want) else math.inf
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    if same.all():
        return 0.0
    scale = float(np.max(np.abs(want[np.isfinite(want)]), initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):
        worst = float(np.max(np.abs(got[~same].astype(np.float64) - want[~same].astype(np.float64)))) / scale
    return worst if math.isfinite(worst) else math.inf


def _array(index: int, spec: TensorSpec) -> np.ndarray:
    """Bytes of SHAKE-128, the same for every version of NumPy and every machine."""
    shape = spec.extents
    count = math.prod(shape)
    raw = np.frombuffer(hashlib.shake_128(f"planish:{index}".encode()).digest(2 * count), "<i2")
    if spec.dtype == "bfloat16":
        return (raw.astype(np.float32) / 32768).view(np.uint32).__rshift__(16).astype(np.uint16).reshape(shape)
    dtype = np.dtype(spec.dtype)
    if np.issubdtype(dtype, np.floating):
        return (raw.astype(np.float64) / 32768).astype(dtype).reshape(shape)
    return (raw & 1).astype(dtype).reshape(shape)
