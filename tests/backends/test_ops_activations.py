"""Activations on every 509th float32: |f(x) - exact| <= 2 units in the last place of x or of f(x), the larger ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from planish.backends.tvm.compat import IRBuilder, T, tvm
from planish.backends.tvm.ops import activations
from planish.backends.tvm.ops.lanes import lane_loop
from planish.backends.tvm.target import Target

PATTERNS = np.arange(0, 1 << 32, 509, dtype=np.uint64)[: (1 << 23)].astype(np.uint32).view(np.float32)
LANES = 16

Case = tuple[Callable[[Any], Any], Callable[[torch.Tensor], torch.Tensor]]
CASES: dict[str, Case] = {
    "gelu": (activations.gelu, functional.gelu),
    "gelu_tanh": (partial(activations.gelu, approximate="tanh"), partial(functional.gelu, approximate="tanh")),
    "silu": (activations.silu, functional.silu),
    "mish": (activations.mish, functional.mish),
    "softplus": (activations.softplus, functional.softplus),
    "log_sigmoid": (activations.log_sigmoid, functional.logsigmoid),
    "elu": (activations.elu, functional.elu),
    "relu": (activations.relu, functional.relu),
}


@pytest.fixture(scope="module")
def library() -> Any:
    """All activations in one compiled module."""
    functions = {}
    for name, (body, _) in CASES.items():
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_attr({"tirx.noalias": True, "global_symbol": name})
            x, out = (T.match_buffer(T.arg(n, T.handle()), (PATTERNS.size,), "float32") for n in ("x", "out"))
            with T.parallel(0, PATTERNS.size // LANES) as i, lane_loop(LANES) as v:
                T.buffer_store(out, body(x[i * LANES + v]), [i * LANES + v])
        functions[name] = builder.get()
    return tvm.compile(tvm.IRModule(functions), target=Target.host(threads=1).tvm_target())


@pytest.mark.parametrize("name", CASES)
def test_error_is_two_units_at_most(library: Any, name: str) -> None:
    result = tvm.runtime.tensor(np.zeros(PATTERNS.size, np.float32))
    library[name](tvm.runtime.tensor(PATTERNS), result)
    finite = np.isfinite(PATTERNS)
    got, x = result.numpy()[finite].astype(np.float64), PATTERNS[finite].astype(np.float64)
    exact = CASES[name][1](torch.from_numpy(x)).numpy()
    size = np.maximum(np.abs(x), np.abs(exact))
    unit = 2.0 ** np.maximum(np.frexp(size)[1] - 24, -149)
    error = np.abs(got - exact) / unit
    assert error.max() <= 2, f"{error.max()} units at {x[error.argmax()]}"


@pytest.mark.parametrize("name", CASES)
def test_nan_stays_and_infinity_is_right(library: Any, name: str) -> None:
    x = np.zeros(PATTERNS.size, np.float32)
    x[:4] = np.nan, -np.nan, np.inf, 0.0
    result = tvm.runtime.tensor(np.zeros(PATTERNS.size, np.float32))
    library[name](tvm.runtime.tensor(x), result)
    got = result.numpy()[:4]
    assert np.isnan(got[:2]).all()
    assert got[2] == (0.0 if name == "log_sigmoid" else np.inf)
    assert abs(got[3] - CASES[name][1](torch.zeros(1))[0].item()) < 1e-7
