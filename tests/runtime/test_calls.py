"""Calling a Compiled: any array at any offset, right or a clear error, never a crash."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from runtime.conftest import compile_plan
from runtime.plans import Builder, expected_scale_and_shift

from planish.backends.tvm.compat import tirx
from planish.backends.tvm.runtime import Compiled
from planish.backends.tvm.tensors import aligned_copy
from planish.errors import InputError
from planish.ir.signature import Parameter, Signature, Structure, TensorSpec

X = np.random.default_rng(0).standard_normal((4, 32), dtype=np.float32)
WANT = expected_scale_and_shift(X)


def at_offset(offset: int) -> np.ndarray:
    """X at an address that is `offset` bytes past a multiple of 64."""
    memory = aligned_copy(np.zeros(X.nbytes + 64, np.uint8))
    view = memory[offset : offset + X.nbytes].view(np.float32).reshape(X.shape)
    view[...] = X
    assert view.ctypes.data % 64 == offset
    return view


@pytest.mark.parametrize("offset", [0, 4, 16, 20, 60, 1, 7])
def test_numpy_at_any_offset(compiled: Compiled, offset: int) -> None:
    """Multiples of 4 are used in place; others are copied, since no element may straddle."""
    for _ in range(3):
        np.testing.assert_array_equal(compiled(at_offset(offset))[0], WANT, strict=True)


@pytest.mark.parametrize("offset", [0, 1, 3, 5, 15])
def test_torch_at_any_offset(compiled: Compiled, offset: int) -> None:
    memory = torch.zeros(X.size + 16)
    memory[offset : offset + X.size] = torch.from_numpy(X).reshape(-1)
    output = compiled(memory[offset : offset + X.size].view(4, 32))[0]
    assert isinstance(output, torch.Tensor)
    np.testing.assert_array_equal(output.numpy(), WANT)


def readonly(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS: dict[str, Any] = {
    "transposed": np.asfortranarray(X),
    "strided": np.repeat(X, 2, axis=1)[:, ::2],
    "reversed": X[::-1].copy()[::-1],
    "read-only": readonly(X),
    "subclass": X.view(type("Sub", (np.ndarray,), {})),
    "torch transposed": torch.from_numpy(X).t().contiguous().t(),
    "torch requires_grad": torch.from_numpy(X.copy()).requires_grad_(),
    "torch parameter": torch.nn.Parameter(torch.from_numpy(X.copy())),
    "torch negative view": torch.complex(torch.zeros(4, 32), torch.from_numpy(-X)).conj().imag,
    "torch plain": torch.from_numpy(X.copy()),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(compiled: Compiled, name: str) -> None:
    output = compiled(LAYOUTS[name])[0]
    assert type(output) is (torch.Tensor if name.startswith("torch") else np.ndarray)
    np.testing.assert_array_equal(np.asarray(output), WANT)


def test_broadcast_memory(compiled: Compiled) -> None:
    row = np.arange(32, dtype=np.float32)
    wide = np.broadcast_to(row, (4, 32))
    np.testing.assert_array_equal(compiled(wide)[0], expected_scale_and_shift(np.ascontiguousarray(wide)))


class Foreign:
    """Another library's array: nothing but DLPack."""

    def __init__(self, array: np.ndarray, device: int = 1) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.device, 0)


def test_anything_with_dlpack(compiled: Compiled) -> None:
    output = compiled(Foreign(X))[0]
    assert type(output) is np.ndarray
    np.testing.assert_array_equal(output, WANT)


def test_an_array_namespace_gets_its_own_kind_back(compiled: Compiled) -> None:
    class Namespaced(Foreign):
        def __array_namespace__(self) -> Any:
            return torch

    assert isinstance(compiled(Namespaced(X))[0], torch.Tensor)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (X.astype(np.float64), r"Input 'x' is float64, expected float32(.|\n)*astype\('float32'\)"),
        (X.astype(">f4"), r"other byte order \(>f4\)"),
        (X[0], r"has 1 dimensions \[32\], expected 2: x: float32\[4, 32\]"),
        (X[:2], r"has shape \[2, 32\], expected \[4, 32\] \(dimension 0 differs\)"),
        (np.zeros((32, 4), np.float32), r"dimensions 0, 1 differ\)"),
        (np.zeros((0, 32), np.float32), r"has shape \[0, 32\]"),
        (np.ma.masked_array(X, X > 0), "is a masked array"),
        (X.tolist(), "got a list of 4"),
        (1.0, "got float 1.0"),
        (None, "None"),
        ("x", "got str 'x'"),
        (X.astype(object), "is object, expected float32"),
        (np.zeros((4, 32), "V4"), "is void32, expected float32"),
        (torch.zeros(4, 32, dtype=torch.float16), r"is float16, expected float32(.|\n)*x.to\(torch.float32\)"),
        (torch.zeros(4, 32, device="meta"), "is on meta"),
        (torch.zeros(4, 32).to_sparse(), "is a torch.sparse_coo tensor"),
        (torch.zeros(4, 31), r"has shape \[4, 31\]"),
        (Foreign(X, device=2), "is not in the CPU's memory"),
    ],
)
def test_inputs_that_do_not_fit(compiled: Compiled, value: Any, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about sparse tensors
        with pytest.raises(InputError, match=message):
            compiled(value)


def test_wrong_calls(compiled: Compiled) -> None:
    for args, kwargs in [((), {}), ((X, X), {}), ((X,), {"x": X}), ((), {"y": X})]:
        with pytest.raises(InputError):
            compiled(*args, **kwargs)
    with pytest.raises(InputError, match="2 inputs were given, 1 are expected"):
        compiled.run_flat([X, X])


def test_by_name(compiled: Compiled) -> None:
    np.testing.assert_array_equal(compiled(x=X)[0], WANT)


def test_the_input_is_not_changed(compiled: Compiled) -> None:
    given = X.copy()
    compiled(given)
    np.testing.assert_array_equal(given, X)


def test_outputs_are_fresh_and_writable(compiled: Compiled) -> None:
    first, second = compiled(X)[0], compiled(X)[0]
    assert not np.shares_memory(first, second)
    first[...] = 0
    np.testing.assert_array_equal(second, WANT)
    np.testing.assert_array_equal(compiled(X)[0], WANT)


def test_an_output_outlives_the_model() -> None:
    b = Builder()
    b.call("y", lambda v: v + v, b.input("x", (4, 32)))
    model = compile_plan(b.outputs("y"))
    output = model(X)[0]
    del model
    np.testing.assert_array_equal(output, 2 * X)


@pytest.mark.parametrize("make", [np.empty_like, lambda x: np.empty((8, 64), np.float32)[::2, ::2], torch.empty])
def test_out_receives_the_results(compiled: Compiled, make: Any) -> None:
    out = torch.zeros(4, 32) if make is torch.empty else make(X)
    returned = compiled(X, out=(out,))
    assert returned[0] is out
    np.testing.assert_array_equal(np.asarray(out), WANT)


def test_out_may_be_the_input(compiled: Compiled) -> None:
    given = X.copy()
    compiled(given, out=(given,))
    np.testing.assert_array_equal(given, WANT)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros((4, 31), np.float32), r"Output 'output\.0' has shape \[4, 31\]"),
        (np.zeros((4, 32), np.float64), "is float64, expected float32"),
        (readonly(X), "read-only"),
        ([0.0], "got a list of 1"),
        (torch.zeros(4, 32, dtype=torch.int32), "is int32, expected float32"),
    ],
)
def test_out_that_does_not_fit_is_refused_before_anything_runs(compiled: Compiled, out: Any, message: str) -> None:
    before = np.asarray(out).copy()
    with pytest.raises(InputError, match=message):
        compiled(X, out=(out,))
    np.testing.assert_array_equal(np.asarray(out), before)


def test_nested_inputs_outputs_and_constants() -> None:
    """A dict in, a list with a constant out; a Python scalar where the signature holds one."""
    leaf = Structure("leaf")
    b = Builder()
    p, q = b.input("p", (4, 32)), b.input("q", (4, 32))
    b.call("sum", lambda u, v: u + v, p, q)
    b.call("product", lambda u, v: u * v, p, q)
    b.outputs("sum", "product")
    specs = [TensorSpec(n, "float32", (4, 32)) for n in ("batch.p", "batch.q")]
    signature = Signature(
        tuple(specs),
        tuple(TensorSpec(n, "float32", (4, 32)) for n in ("output.0", "output.1")),
        Structure(
            "tuple",
            (
                Structure("tuple", (Structure("dict", (leaf, leaf), ("p", "q")), Structure.constant(2.5))),
                Structure("dict"),
            ),
        ),
        Structure("list", (leaf, Structure.constant(None), leaf)),
        (Parameter("batch"), Parameter("scale")),
    )
    from planish.backends.tvm.assemble import assemble
    from planish.backends.tvm.build import build

    model = assemble(build(b.plan, b.weights, b.target), signature)
    total, nothing, product = model({"p": X, "q": X}, 2.5)
    np.testing.assert_array_equal(total, X + X)
    np.testing.assert_array_equal(product, X * X)
    assert nothing is None
    with pytest.raises(InputError, match="scale"):
        model({"p": X, "q": X}, 3.5)
    outs = [np.empty_like(X), None, np.empty_like(X)]
    model({"p": X, "q": X}, scale=2.5, out=outs)
    np.testing.assert_array_equal(outs[2], X * X)


def test_a_scalar_array() -> None:
    b = Builder()
    b.call("y", lambda v: v * tirx.const(2, "float32"), b.input("x", ()))
    model = compile_plan(b.outputs("y"))
    for value in (np.float32(3), np.array(3, np.float32), torch.tensor(3.0)):
        output = model(value)[0]
        assert output.shape == ()
        assert float(output) == 6.0


def test_mixed_kinds_give_torch() -> None:
    b = Builder()
    b.call("y", lambda u, v: u + v, b.input("p", (4, 32)), b.input("q", (4, 32)))
    model = compile_plan(b.outputs("y"))
    assert isinstance(model(X, torch.from_numpy(X))[0], torch.Tensor)


def test_profile_names_layers_and_templates(compiled: Compiled) -> None:
    profile = compiled.profile(X, runs=3)
    assert [(row.layers, row.template) for row in profile.rows] == [
        (("stem.conv",), "elementwise"),
        (("head.fc",), "elementwise"),
    ]
    assert all(row.milliseconds > 0 and row.gflops > 0 for row in profile.rows)
    assert profile.milliseconds > 0
    assert "head.fc" in str(profile)
    np.testing.assert_array_equal(compiled(X)[0], WANT)


def test_description(compiled: Compiled) -> None:
    assert "x: float32[4, 32]" in repr(compiled)
    assert compiled.report == ()
    assert [step["region"] for step in compiled.steps] == ["tripled", "y"]
    assert compiled.selftest() == 0.0
