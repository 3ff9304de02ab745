"""Weights that loading makes from stored ones: made once, by content, in memory that belongs to the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime.conftest import compile_plan
from runtime.plans import Builder

from planish.backends.tvm import container
from planish.backends.tvm.artifact import Artifact
from planish.backends.tvm.assemble import assemble
from planish.backends.tvm.build import build
from planish.backends.tvm.compat import IRBuilder, T, tirx
from planish.backends.tvm.plan import Derived, Kernel, PackedWeight
from planish.backends.tvm.runtime import Compiled, load
from planish.backends.tvm.symbol import kernel_symbol
from planish.backends.tvm.target import Target, parse_target

SHAPE = (64, 512)
ROW = np.arange(512, dtype=np.float32)
X = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)


def rows_times(factor: float, size: int) -> Any:
    """made[i, j] = factor * stored[j], `stored` being of `size`."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        stored = T.match_buffer(T.arg("stored", T.handle()), (size,), "float32", align=64)
        made = T.match_buffer(T.arg("made", T.handle()), SHAPE, "float32", align=64)
        with T.parallel(0, SHAPE[0]) as i, T.vectorized(0, SHAPE[1]) as j:
            T.buffer_store(made, stored[j] * tirx.const(factor, "float32"), [i, j])
    return builder.get()


def derive(b: Builder, name: str, source: str, factor: float) -> str:
    """A weight of SHAPE made from the first elements of `source`."""
    func = rows_times(factor, b.weights[source].size)
    symbol = kernel_symbol(func, b.target)
    b.plan.kernels[symbol] = Kernel(symbol, func, "prepare")
    b.plan.weights[name] = PackedWeight(name, source, np.ascontiguousarray, Derived(symbol, SHAPE, "float32"))
    return name


def rows(target: Target | None = None, row: np.ndarray = ROW) -> Builder:
    """y = x + 2r + 2r' + 3r; r and r' are equal arrays of two names."""
    b = Builder(target)
    x = b.input("x", SHAPE)
    b.weights["r"], b.weights["again"] = row, row.copy()
    two, same, three = derive(b, "two", "r", 2.0), derive(b, "same", "again", 2.0), derive(b, "three", "r", 3.0)
    y = b.call("y", lambda v, *w: v + w[0] + w[1] + w[2], x, two, same, three)
    return b.outputs(y)


def check(model: Compiled) -> None:
    np.testing.assert_array_equal(model(X)[0], X + 2 * ROW + 2 * ROW + 3 * ROW)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("derived") / "rows.planish"
    compile_plan(rows()).save(path)
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_a_loaded_artifact_derives_its_weights(path: Path, threads: int) -> None:
    model = load(path, threads=threads)
    check(model)
    assert model.selftest() == 0.0


def test_equal_arrays_are_stored_and_derived_once(path: Path) -> None:
    model = load(path)
    assert len({entry["offset"] for entry in model.manifest["weights"]}) == 1
    assert model.manifest["members"]["weights"]["length"] == ROW.nbytes
    arrays = [np.from_dlpack(tensor) for tensor in model._engine.weight_tensors]
    two, same, three = (array.ctypes.data for array in arrays)
    assert two == same
    assert two % 64 == three % 64 == 0
    assert abs(three - two) == arrays[0].nbytes
    again = [np.from_dlpack(t).ctypes.data for t in load(path)._engine.weight_tensors]
    assert two not in again  # each Compiled has its own


def test_equal_arrays_of_other_shapes_are_stored_once() -> None:
    b = Builder()
    x = b.input("x", (4, 32))
    flat = b.weight("flat", np.arange(128, dtype=np.float32))
    square = b.weight("square", np.arange(128, dtype=np.float32).reshape(4, 32))
    other = b.weight("other", np.ones((4, 32), np.float32))
    y = b.call("y", lambda v, w, u: v + w + u, x, square, other)
    model = compile_plan(b.outputs(y, flat))
    first, second, third = (entry["offset"] for entry in model.manifest["weights"])
    assert first == second != third
    given = np.zeros((4, 32), np.float32)
    results = model(given)
    np.testing.assert_array_equal(results[0], np.arange(1, 129, dtype=np.float32).reshape(4, 32))
    np.testing.assert_array_equal(results[1], np.arange(128, dtype=np.float32))


def test_pages_that_only_derivation_read_are_given_back(tmp_path: Path) -> None:
    """8 MB that are added are resident, 16 MB that something is derived from are not."""
    b = rows(row=np.ones(1 << 22, np.float32))
    kept = b.weight("kept", np.ones((1 << 12, 512), np.float32))
    x = b.input("more", (1 << 12, 512))
    b.outputs(*b.plan.outputs, b.call("sum", lambda v, w: v + w, x, kept))
    compile_plan(b).save(tmp_path / "large.planish")
    code = """
import json, sys, planish, numpy as np
from planish.backends.tvm.selftest import inputs
model = planish.load(sys.argv[1])
model.run_flat(inputs(model.signature))
resident = 0
lines = open("/proc/self/smaps").read().splitlines()
for number, line in enumerate(lines):
    if line.endswith("large.planish"):
        resident += next(int(l.split()[1]) for l in lines[number:] if l.startswith("Rss:"))
print(json.dumps(resident / 1024))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "large.planish")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 8 <= json.loads(done.stdout) < 16


def test_a_process_may_fork_after_loading(path: Path) -> None:
    """The pool that derived the weights is not the one that the child would find dead."""
    code = """
import os, sys, planish, numpy as np
model = planish.load(sys.argv[1], threads=2)
x = np.zeros((64, 512), np.float32)
want = 7 * np.arange(512, dtype=np.float32)
pid = os.fork()
if pid == 0:
    os._exit(0 if (model(x)[0] == want).all() else 1)
assert os.waitpid(pid, 0)[1] == 0
assert (model(x)[0] == want).all()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("spec", ["haswell", "aarch64:neoverse-v1"])
def test_artifacts_for_other_machines_bring_what_derives(spec: str, tmp_path: Path) -> None:
    b = rows(parse_target(spec))
    code = build(b.plan, b.weights, b.target)
    model = assemble(code, b.signature)
    model.save(tmp_path / "a.planish")
    artifact = Artifact.open(tmp_path / "a.planish")
    symbols = {weight.derived.symbol for weight in artifact.weights if weight.derived is not None}
    assert len(symbols) == 2
    assert all(symbol.encode() in bytes(artifact.code) for symbol in symbols)
    if model.runs_here:
        check(model)


def test_a_planish_that_knows_no_derived_weights_refuses_the_file(path: Path) -> None:
    assert container.VERSION == 2  # version 1 would hand the stored arrays to the kernels
    assert path.read_bytes()[8] == 2
