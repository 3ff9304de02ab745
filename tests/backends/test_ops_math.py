"""The polynomials against float64, on millions of float32 bit patterns: |f(x) - exact| in units of the last place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from planish.backends.tvm.compat import IRBuilder, T, tvm
from planish.backends.tvm.ops import math
from planish.backends.tvm.ops.lanes import lane_loop, let, once
from planish.backends.tvm.target import Target

COUNT = 1 << 19
LANES = 16

UNARY: dict[str, tuple[Callable[[Any], Any], float]] = {
    "exp": (np.exp, 2),
    "exp2": (np.exp2, 2),
    "expm1": (np.expm1, 2),
    "ln": (np.log, 2),
    "log2": (np.log2, 2),
    "log10": (np.log10, 2),
    "log1p": (np.log1p, 2),
    "tanh": (np.tanh, 2),
    "erf": (lambda x: torch.erf(torch.from_numpy(x)).numpy(), 2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 2.5),
    "sin": (np.sin, 2),
    "cos": (np.cos, 2),
    "tan": (np.tan, 4),
    "atan": (np.arctan, 4),
    "asin": (np.arcsin, 4),
    "acos": (np.arccos, 4),
    "sinh": (np.sinh, 4),
    "cosh": (np.cosh, 4),
    "asinh": (np.arcsinh, 4),
    "acosh": (np.arccosh, 4),
    "atanh": (np.arctanh, 4),
    "absolute": (np.abs, 0),
    "negate": (np.negative, 0),
}
BINARY: dict[str, tuple[Callable[[Any, Any], Any], float]] = {
    "power": (np.power, 1),
    "atan2": (np.arctan2, 4),
    "maximum": (np.maximum, 0),
    "minimum": (np.minimum, 0),
    "fmod": (lambda a, b: torch.fmod(torch.from_numpy(a), torch.from_numpy(b)).numpy(), 0),
    "copysign": (lambda a, b: np.copysign(np.abs(a), b), 0),
}

SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1e-45, -1e-45, 1.1754942e-38, 1.1754944e-38,
     3.4028235e38, -3.4028235e38, 88.72283, 88.72284, -87.33655, -103.9, -104.1, 127.99999, 128, -126, -149, -150,
     0.625, 0.927734375, 1e-10, -1e-10, 0.70710677, 0.70710679, 1048575.9, 1048576, 1.5707964, 3.1415927, 710, -18],
    np.float32,
)  # fmt: skip


def kernel(body: Callable[[Any, Any], Any]) -> Any:
    """A PrimFunc that applies a scalar expression to each pair of elements."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"tirx.noalias": True})
        x, y, out = (T.match_buffer(T.arg(n, T.handle()), (COUNT,), "float32") for n in ("x", "y", "out"))
        with T.serial(0, COUNT // LANES) as i, lane_loop(LANES) as v:
            T.buffer_store(out, body(x[i * LANES + v], y[i * LANES + v]), [i * LANES + v])
    return builder.get()


@pytest.fixture(scope="module")
def library() -> Any:
    """All functions in one compiled module."""
    functions = {n: kernel(lambda x, y, n=n: getattr(math, n)(once(x))) for n in UNARY}  # type: ignore[misc]
    functions |= {n: kernel(lambda x, y, n=n: getattr(math, n)(once(x), once(y))) for n in BINARY}  # type: ignore[misc]
    module = tvm.IRModule({n: f.with_attr("global_symbol", n) for n, f in functions.items()})
    return tvm.compile(module, target=Target.host(threads=1).tvm_target())


def samples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random bit patterns and moderate numbers, with all pairs of special values in front."""
    rng = np.random.default_rng(seed)
    scale = [1.0, 30.0, 0.1][seed % 3]

    def one() -> np.ndarray:
        wild = rng.integers(0, 2**32, COUNT, dtype=np.uint32).view(np.float32)
        tame = (rng.standard_normal(COUNT) * scale).astype(np.float32)
        mixed: np.ndarray = np.where(rng.random(COUNT) < 0.5, wild, tame)
        return mixed

    x, y = one(), one()
    grid = np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1)
    x[: grid.shape[1]], y[: grid.shape[1]] = grid
    return x, y


def run(library: Any, name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Call one function."""
    out = tvm.runtime.tensor(np.zeros(COUNT, np.float32))
    library[name](tvm.runtime.tensor(x), tvm.runtime.tensor(y), out)
    result: np.ndarray = out.numpy()
    return result


def assert_within(got: np.ndarray, exact: np.ndarray, limit: float) -> None:
    """NaN, infinities and the sign of zero as float64 rounded to float32 has them; the rest within `limit` ulp."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
    infinite = np.isinf(got) | np.isinf(rounded)
    np.testing.assert_array_equal(got[infinite], rounded[infinite])
    zero = (rounded == 0) & (got == 0)
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(rounded[zero]))
    finite = np.isfinite(rounded) & ~infinite
    if limit == 0:
        np.testing.assert_array_equal(got[finite], rounded[finite])
        return
    exponent = np.frexp(rounded[finite].astype(np.float64))[1]
    ulp = 2.0 ** np.maximum(exponent - 24, -149)
    error = np.abs(got[finite].astype(np.float64) - exact[finite]) / ulp
    assert error.max() <= limit, f"{error.max()} ulp at index {error.argmax()}"


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unary(library: Any, name: str, seed: int) -> None:
    reference, limit = UNARY[name]
    x, y = samples(seed)
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
    assert_within(run(library, name, x, y), exact, limit)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("seed", [0, 1])
def test_binary(library: Any, name: str, seed: int) -> None:
    reference, limit = BINARY[name]
    x, y = samples(seed)
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64), y.astype(np.float64))
    if name in ("maximum", "minimum", "power"):
        got = run(library, name, x, y)
        zero = (exact == 0) & (got == 0) if name != "power" else np.zeros(COUNT, bool)
        got, exact = np.where(zero, 0, got), np.where(zero, 0, exact)  # which zero of +0 and -0 is free
        assert_within(got, exact, limit)
    else:
        assert_within(run(library, name, x, y), exact, limit)


LIBM = {"exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "sin", "cos", "tan", "tanh", "erf", "fmod"}


def test_no_libm(library: Any) -> None:
    """The object asks for no elementary function of the C library."""
    assembly = library.mod.inspect_source("asm")
    jumps = [line.split() for line in assembly.splitlines() if line.strip().startswith(("call", "jmp"))]
    called = {words[-1].split("@")[0].lstrip("*") for words in jumps}
    assert not called & (LIBM | {f"{name}f" for name in LIBM})


def test_vectors(library: Any) -> None:
    """The function body works on whole vectors (a scalarized one has no packed multiplication)."""
    assert "mulps" in library.mod.inspect_source("asm")


def test_long_chain_compiles_fast() -> None:
    """Twelve activations in a row: without names this expression has more than 10^6 nodes."""

    def body(x: Any, _: Any) -> Any:
        for _ in range(6):
            x = let(x, lambda x: x * math.tanh(x))
            x = let(x, lambda x: x * math.sigmoid(x))
        return x

    function = kernel(body).with_attr("global_symbol", "main")
    module = tvm.compile(tvm.IRModule({"main": function}), target=Target.host(threads=1).tvm_target())
    x = np.linspace(-3, 3, COUNT, dtype=np.float32)
    out = tvm.runtime.tensor(np.zeros(COUNT, np.float32))
    module["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(x), out)
    exact = x.astype(np.float64)
    for _ in range(6):
        exact = exact * np.tanh(exact)
        exact = exact / (1 + np.exp(-exact))
    np.testing.assert_allclose(out.numpy(), exact, rtol=1e-4, atol=1e-30)
