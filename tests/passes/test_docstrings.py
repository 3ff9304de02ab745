"""Every pass shows what it does: Before becomes After to the letter, computes the same, and has no more to do."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest
import torch
from rewriting import blocks, random_inputs, relative_error, run

import planish.passes.fold
import planish.passes.group
import planish.passes.normalize
import planish.passes.norms
import planish.passes.precision
import planish.passes.reparameterize
from planish.ir.text import parse_program, print_program
from planish.passes.base import Numerics, Pass, flat
from planish.passes.manager import run_passes
from planish.passes.pipelines import PIPELINES

FOLDERS = (
    planish.passes.normalize,
    planish.passes.fold,
    planish.passes.reparameterize,
    planish.passes.norms,
    planish.passes.precision,
    planish.passes.group,
)


def passes_of(module: ModuleType) -> list[type[Pass]]:
    """The passes that a module defines (not their bases, which have no name)."""
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    return [c for c in own if issubclass(c, Pass) and "name" in vars(c)]


MODULES = [
    module
    for folder in FOLDERS
    for info in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}.")
    if passes_of(module := importlib.import_module(info.name))
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_before_becomes_after(module: ModuleType) -> None:
    (kind,) = passes_of(module)
    texts = blocks(module)
    before, after = map(parse_program, texts)
    assert print_program(before).strip() == texts[0].strip()
    result = run_passes(before, [kind()], verify=True)
    assert after.stage in (before.stage, result.stage)
    assert print_program(result.evolve(stage=after.stage)).strip() == texts[1].strip()
    assert print_program(after).strip() == texts[1].strip()
    if kind.numerics is Numerics.EXACT:
        inputs = random_inputs(before)
        assert all(torch.equal(old, new) for old, new in zip(run(before, inputs), run(result, inputs), strict=True))
    assert relative_error(before, result) <= (2**-7 if kind.numerics is Numerics.APPROXIMATES else 1e-6)
    assert kind.ensures is not None or not kind().run(result)[1], "the pass is not done after one run"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_pass_has_the_name_of_its_file_and_a_place_in_a_pipeline(module: ModuleType) -> None:
    (kind,) = passes_of(module)
    name = module.__name__.rpartition(".")[2]
    assert kind.name == name
    assert kind.__name__ == "".join(word.capitalize() for word in name.split("_"))
    assert (module.__doc__ or "").startswith(f"{name}: ")
    assert any(isinstance(step, kind) for steps in PIPELINES.values() for step in flat(steps))


def test_all_passes_are_found() -> None:
    found = {passes_of(module)[0] for module in MODULES}
    assert {type(step) for steps in PIPELINES.values() for step in flat(steps)} == found
