"""One small artifact for all tests here: y = 3x + w in two kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime.plans import Builder, scale_and_shift

from planish.backends.tvm.assemble import assemble
from planish.backends.tvm.build import Code, build
from planish.backends.tvm.runtime import Compiled


def compile_plan(builder: Builder, threads: int | None = None) -> Compiled:
    code = build(builder.plan, builder.weights, builder.target)
    return assemble(code, builder.signature, threads=threads)


@pytest.fixture(scope="session")
def code() -> Code:
    builder = scale_and_shift()
    return build(builder.plan, builder.weights, builder.target)


@pytest.fixture(scope="session")
def compiled(code: Code) -> Compiled:
    return assemble(code, scale_and_shift().signature, threads=2)


@pytest.fixture(scope="session")
def path(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "small.planish"
    compiled.save(path)
    return path
