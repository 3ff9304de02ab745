"""The one comparison of numbers in the tests, calibrated by PyTorch's own rounding error.

    max|actual - reference64|  <=  4 max|eager32 - reference64|  +  8 ulp(max|reference64|)
    max|actual - reference64|  <=  2 max|eager16 - reference64|  +  1 ulp(max|reference64|)      in bfloat16

There is no tolerance to choose. Integers and bools must be equal; NaN and infinities must stand where eager
puts them, with eager's sign. A float64 model has no better reference than itself: its eager error reads as
zero though both sums round, so it gets 256 ulp (about what a deep float32 net's eager error is in ulp).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

ALLOWED = {"float64": (4, 256), "bfloat16": (2, 1)}
"""(multiples of eager's error, units in the last place) where these are not 4 and 8."""
_MANTISSA_BITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
_MIN_EXPONENT = {"float64": -1022, "float32": -126, "float16": -14, "bfloat16": -126}


def assert_close_to_reference(actual: Any, reference64: Any, eager32: Any) -> float:
    """Fail unless `actual` is as near to `reference64` as the bound above; nested lists, tuples and dicts are walked.

    Arrays may be NumPy's or torch's. Returns the largest error as a multiple of eager's own (eager's not
    counted below one ulp of the output scale).
    """
    return _compare(actual, reference64, eager32, "output")


def assert_close_in_bfloat16(actual: Any, reference64: Any, eager16: Any) -> float:
    """As above for float32 outputs of a model computed in bfloat16; `eager16` is the model run in bfloat16 by PyTorch.

    What is no floating-point number is not compared but for its kind: a near tie may fall either way.
    """
    return _compare(actual, reference64, eager16, "output", narrow=True)


def _compare(actual: Any, reference: Any, eager: Any, where: str, narrow: bool = False) -> float:
    """Walk the nesting; compare the tensors at the leaves."""
    if isinstance(eager, dict):
        assert isinstance(actual, dict), f"{where}: expected a dict, got {type(actual).__name__}"
        assert list(actual) == list(eager), f"{where}: keys {list(actual)} should be {list(eager)}"
        return max((_compare(actual[k], reference[k], eager[k], f"{where}.{k}", narrow) for k in eager), default=0.0)
    if isinstance(eager, list | tuple):
        assert isinstance(actual, list | tuple), f"{where}: expected a sequence, got {type(actual).__name__}"
        assert len(actual) == len(eager) == len(reference), f"{where}: {len(actual)} parts should be {len(eager)}"
        parts = zip(actual, reference, eager, strict=True)
        return max((_compare(a, r, e, f"{where}.{i}", narrow) for i, (a, r, e) in enumerate(parts)), default=0.0)
    if eager is None or isinstance(eager, bool | int | float | str):
        assert type(actual) is type(eager), f"{where}: {actual!r} should be {eager!r}"
        assert actual == eager, f"{where}: {actual!r} should be {eager!r}"
        return 0.0
    return _compare_arrays(actual, reference, eager, where, narrow)


def _compare_arrays(actual: Any, reference: Any, eager: Any, where: str, narrow: bool) -> float:
    """Shapes, dtypes, then values."""
    assert tuple(actual.shape) == tuple(eager.shape) == tuple(reference.shape), (
        f"{where}: shape {tuple(actual.shape)} should be {tuple(eager.shape)}, reference {tuple(reference.shape)}"
    )
    dtype = dtype_name(eager)
    wanted = "float32" if narrow and dtype == "bfloat16" else dtype
    assert dtype_name(actual) == wanted, f"{where}: dtype {dtype_name(actual)} should be {wanted}"
    if dtype not in _MANTISSA_BITS:
        if narrow:
            return 0.0
        np.testing.assert_array_equal(_plain(actual), _plain(eager), err_msg=where)
        return 0.0
    a, r, e = (_float64(x) for x in (actual, reference, eager))
    odd = ~np.isfinite(e)
    assert np.array_equal(np.where(np.isfinite(a), 0.0, a), np.where(odd, e, 0.0), equal_nan=True), (
        f"{where}: NaN or inf at {_first(~_same_odd(a, e))} differs from eager "
        f"({np.count_nonzero(~np.isfinite(a))} non-finite, eager {np.count_nonzero(odd)})"
    )
    compared = ~odd & np.isfinite(r)
    return _compare_finite(a[compared], r[compared], e[compared], dtype, where)


def _compare_finite(a: np.ndarray, r: np.ndarray, e: np.ndarray, dtype: str, where: str) -> float:
    """The bound itself, over the elements that are finite everywhere."""
    if a.size == 0:
        return 0.0
    ulp = unit_in_last_place(float(np.abs(r).max()), dtype)
    error, own = float(np.abs(a - r).max()), float(np.abs(e - r).max())
    factor, ulps = ALLOWED.get(dtype, (4, 8))
    bound = factor * own + ulps * ulp
    ratio = error / max(own, ulp)
    assert error <= bound, (
        f"{where}: error {error:.3g} exceeds {bound:.3g} ({ratio:.3g} times eager's {own:.3g}; ulp {ulp:.3g}); "
        f"{np.count_nonzero(np.abs(a - r) > bound)} of {a.size} elements are off"
    )
    return ratio


def unit_in_last_place(scale: float, dtype: str) -> float:
    """Distance between neighbouring numbers of `dtype` at magnitude `scale`."""
    exponent = int(np.frexp(scale)[1]) - 1 if scale else _MIN_EXPONENT[dtype]
    return float(2.0 ** (max(exponent, _MIN_EXPONENT[dtype]) - _MANTISSA_BITS[dtype]))


def dtype_name(array: Any) -> str:
    """`float32` for NumPy's and torch's dtype alike."""
    return str(array.dtype).removeprefix("torch.")


def _plain(array: Any) -> np.ndarray:
    """As a NumPy array of its own dtype."""
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)


def _float64(array: Any) -> np.ndarray:
    """As float64 (torch's bfloat16 has no NumPy dtype, so the cast comes first)."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().double()
    result: np.ndarray = np.asarray(array, dtype=np.float64)
    return result


def _same_odd(a: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Where both are finite, both NaN, or the same infinity."""
    both_finite = np.isfinite(a) & np.isfinite(e)
    same: np.ndarray = both_finite | (np.isnan(a) & np.isnan(e)) | (a == e)
    return same


def _first(mask: np.ndarray) -> Sequence[int]:
    """Index of the first True."""
    found = np.argwhere(mask)
    return tuple(int(i) for i in found[0]) if len(found) else ()
