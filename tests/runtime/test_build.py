"""Plan to code: what leaves main, what shares memory, and what runs on another machine."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from runtime.conftest import compile_plan
from runtime.plans import Builder, expected_scale_and_shift, scale_and_shift

from planish.backends.tvm.artifact import read_manifest
from planish.backends.tvm.assemble import assemble
from planish.backends.tvm.build import Code, build
from planish.backends.tvm.callgraph import analyze
from planish.backends.tvm.compat import tirx
from planish.backends.tvm.link import link
from planish.backends.tvm.plan import Step
from planish.backends.tvm.target import parse_target
from planish.errors import ArtifactError, CodegenError, CpuFeatureError, OutputError

X = np.random.default_rng(0).standard_normal((4, 32), dtype=np.float32)


def test_every_kind_of_output_is_fresh_memory() -> None:
    """A result, its view, the result again, an input, its view, a weight, twice: values right, no memory shared."""
    b = Builder()
    x = b.input("x", (4, 32))
    w = b.weight("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    y = b.call("y", lambda v: v * v, x)
    flat = b.view("flat", y, (128,))
    turned = b.view("turned", flat, (8, 16))
    shown = b.view("shown", x, (2, 64))
    b.outputs(y, turned, y, x, shown, w, w)
    model = compile_plan(b)
    given = X.copy()
    outputs = model(given)
    wanted = [
        X**2,
        (X**2).reshape(8, 16),
        X**2,
        X,
        X.reshape(2, 64),
        *[np.arange(6, dtype=np.float32).reshape(2, 3)] * 2,
    ]
    again = model(given + 1)
    arrays = [*outputs, *again, given]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    for got, want in zip(outputs, wanted, strict=True):
        np.testing.assert_array_equal(got, want, strict=True)
    for output in outputs:
        output[...] = np.nan  # the caller's to write; neither the weights nor the plan may notice
    np.testing.assert_array_equal(model(X)[0], X**2)
    np.testing.assert_array_equal(model(X)[5], wanted[5])


def test_views_between_kernels_cost_no_kernel() -> None:
    b = Builder()
    y = b.call("y", lambda v: v + v, b.input("x", (4, 32)))
    z = b.call("z", lambda v: v + v, b.view("flat", y, (128,)))
    b.outputs(b.view("back", z, (32, 4)))
    model = compile_plan(b)
    assert len(model.profile(X).rows) == 2
    np.testing.assert_array_equal(model(X)[0], (4 * X).reshape(32, 4))


def test_steps_that_no_output_needs_are_not_run() -> None:
    b = Builder()
    y = b.call("y", lambda v: v + v, b.input("x", (4, 32)))
    b.call("unused", lambda v: v * v, y)
    model = compile_plan(b.outputs(y))
    np.testing.assert_array_equal(model(X)[0], 2 * X)
    assert [row.region for row in model.profile(X).rows] == ["y"]


def test_a_model_without_kernels() -> None:
    b = Builder()
    b.input("x", (4, 32))
    np.testing.assert_array_equal(compile_plan(b.outputs("x"))(X)[0], X)


@pytest.mark.parametrize(("shape", "dtype"), [((), "float32"), ((3,), "int64"), ((2, 1), "bool"), ((5,), "uint8")])
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: str) -> None:
    b = Builder()
    b.input("x", shape, dtype)
    body = (lambda v: tirx.Not(v)) if dtype == "bool" else (lambda v: v + v)
    b.call("y", body, "x")
    x = np.ones(shape, dtype)
    want = ~x if dtype == "bool" else x + x
    np.testing.assert_array_equal(compile_plan(b.outputs("y"))(x)[0], np.asarray(want), strict=True)


def test_memory_between_kernels_is_reused() -> None:
    """A chain of 64 values of 1 MB needs a few of them at once, not 64."""
    b = Builder()
    value = b.input("x", (256, 1024))
    for i in range(64):
        value = b.call(f"v{i}", lambda v: v + tirx.const(1, "float32"), value)
    model = compile_plan(b.outputs(value), threads=1)
    x = np.zeros((256, 1024), np.float32)
    assert float(model(x)[0][0, 0]) == 64
    assert len(model.manifest["calls"]["kernels"]) == 1  # equal content, one kernel
    with open("/proc/self/status") as status:
        before = int(next(line for line in status if line.startswith("VmRSS")).split()[1])
    for _ in range(20):
        model(x)
    with open("/proc/self/status") as status:
        after = int(next(line for line in status if line.startswith("VmRSS")).split()[1])
    assert after - before < 8 * 1024


def test_progress_counts_kernels() -> None:
    seen: list[tuple[str, int, int]] = []
    b = scale_and_shift()
    build(b.plan, b.weights, b.target, progress=lambda *args: seen.append(args))
    assert seen == [("kernels", 1, 2), ("kernels", 2, 2)]


def test_the_call_table_has_layers_templates_and_choices(code: Code) -> None:
    first, second = code.calls["steps"]
    assert (first["layers"], second["layers"]) == (["stem.conv"], ["head.fc"])
    assert code.calls["kernels"][first["symbol"]] == {"template": "elementwise", "choice": {"rows": 16}, "tuned": None}


def break_order(b: Builder) -> None:
    b.plan.steps.reverse()


def break_kernel(b: Builder) -> None:
    b.plan.kernels.clear()


def break_output(b: Builder) -> None:
    b.plan.outputs = ("nothing",)


def break_view(b: Builder) -> None:
    b.plan.values["v"] = b.plan.values["y"]
    b.plan.steps.append(Step("", ("w",), "v", "v", "view", ()))


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (break_order, r"step y \(head.fc\) reads tripled before it is made"),
        (break_kernel, "has no kernel or no value"),
        (break_output, "the outputs nothing are never made"),
        (break_view, "is a view of the weight w"),
    ],
)
def test_inconsistent_plans_are_refused(defect: Any, message: str) -> None:
    b = scale_and_shift()
    defect(b)
    with pytest.raises(CodegenError, match=message):
        analyze(b.plan)


def test_an_input_read_at_full_alignment_somewhere_is_always_handed_over_so() -> None:
    """A view of an input that is not declared external: its readers assume 64 bytes."""
    b = Builder()
    b.input("x", (4, 32))
    b.view("flat", "x", (128,))
    assert analyze(b.outputs("flat").plan).alignments == (1,)
    b.plan.values["flat"] = replace(b.plan.values["flat"], external=False)
    assert analyze(b.plan).alignments == (64,)


@pytest.mark.parametrize(
    ("spec", "machine"),
    [
        ("haswell", 62),
        ("x86-64-v3", 62),
        ("skylake-avx512", 62),
        ("aarch64:neoverse-v1", 183),
        ("arm64:cortex-a76", 183),
    ],
)
def test_whole_artifacts_for_other_machines(spec: str, machine: int, tmp_path: Any) -> None:
    b = scale_and_shift((16, 256), parse_target(spec))
    code = build(b.plan, b.weights, b.target)
    assert code.library[:6] == b"\x7fELF\x02\x01"
    assert struct.unpack_from("<HH", code.library, 16) == (3, machine)  # a shared object for that machine
    assert undefined(code.library) <= RUNTIME_SYMBOLS
    model = assemble(code, b.signature)
    model.save(tmp_path / "a.planish")
    assert read_manifest(tmp_path / "a.planish")["target"]["cpu"] == spec.split(":")[-1]
    x = np.random.default_rng(0).standard_normal((16, 256), dtype=np.float32)
    if model.runs_here:
        np.testing.assert_array_equal(model(x)[0], expected_scale_and_shift(x))
        assert model.selftest() == 0.0
        return
    with pytest.raises(CpuFeatureError, match=r"is made for aarch64|lacks"):
        model(x)
    with pytest.raises(ArtifactError, match="has no self-test"):
        model.selftest()


RUNTIME_SYMBOLS = {"TVMFFIErrorSetRaisedFromCStrParts", "TVMFFIEnvModLookupFromImports", "TVMFFIFunctionCall"}


def undefined(library: bytes) -> set[str]:
    """Names of undefined dynamic symbols, read from the ELF file itself."""
    names, sections = set(), []
    table, size, count = struct.unpack_from("<Q", library, 40)[0], *struct.unpack_from("<HH", library, 58)
    for i in range(count):
        sections.append(struct.unpack_from("<IIQQQQIIQQ", library, table + i * size))
    for section in sections:
        if section[1] == 11:  # .dynsym; its link is the string table
            strings = sections[section[6]][4]
            for at in range(section[4] + 24, section[4] + section[5], 24):
                name, info, _, index = struct.unpack_from("<IBBH", library, at)
                if index == 0 and info >> 4 == 1:
                    end = library.index(b"\0", strings + name)
                    names.add(library[strings + name : end].decode())
    return names


def test_linking_needs_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.delenv("CC", raising=False)
    b = scale_and_shift()
    assert np.array_equal(compile_plan(b)(X)[0], expected_scale_and_shift(X))
    with pytest.raises(FileNotFoundError):
        subprocess.run(["cc"], check=False)


def test_a_failing_linker_says_why() -> None:
    with pytest.raises(CodegenError, match=r"linker failed on 1 objects(.|\n)*0\.o"):
        link({"a": b"no object"}, parse_target("native"))


def test_a_temporary_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    b = scale_and_shift()
    with pytest.raises(OutputError, match="missing: No such file"):
        build(b.plan, b.weights, b.target)
