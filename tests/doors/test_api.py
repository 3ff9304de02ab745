"""planish.compile, load and rewrite: numbers, options, and every input that is refused."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close_to_reference
from doors.conftest import Small, make_small, small_inputs
from torch import nn

import planish
from planish.errors import (
    ArtifactError,
    CpuFeatureError,
    InputError,
    MiscompiledError,
    ModelError,
    OptionError,
    OutputError,
    TargetError,
    TrainModeError,
    UnsupportedOperators,
)
from planish.ir.interpret import reference_model


@pytest.fixture(scope="module")
def compiled(small: Small) -> Any:
    return planish.compile(small, small_inputs(), threads=2, verify=True)


def test_compiled_gives_the_models_numbers(small: Small, compiled: Any) -> None:
    inputs = small_inputs()
    with torch.no_grad():
        eager = small(*inputs)
    assert_close_to_reference(compiled(*inputs), reference_model(small, inputs), eager)


def test_a_file_gives_the_same_bits(small_file: Path, compiled: Any) -> None:
    loaded = planish.load(small_file, threads=2)
    x, shift = small_inputs()
    for ours, theirs in zip(loaded(x, shift).values(), compiled(x, shift=shift).values(), strict=True):
        assert torch.equal(ours, theirs)


def test_numpy_in_numpy_out(small_file: Path, compiled: Any) -> None:
    x, shift = (t.numpy() for t in small_inputs())
    outputs = planish.load(small_file)(x, shift)
    assert list(outputs) == ["logits", "features"]
    assert all(isinstance(value, np.ndarray) for value in outputs.values())
    np.testing.assert_array_equal(outputs["logits"], compiled(*small_inputs())["logits"].numpy())


def test_the_report_names_what_was_folded(compiled: Any) -> None:
    folded = [site for entry in compiled.report for site in entry.applied if entry.name == "fold_affine_backward"]
    assert any("norm" in site.layers for site in folded)


def test_signature_is_the_documented_one() -> None:
    names = list(inspect.signature(planish.compile).parameters)
    assert names[:12] == [
        "model", "example_inputs", "example_kwargs", "target", "precision", "numerics", "calibration", "preprocess",
        "passes", "dynamic_shapes", "tune", "tuning_db",
    ]  # fmt: skip
    assert names[12:] == ["rpc", "metaschedule", "threads", "verify", "progress", "select", "unknown"]
    assert list(inspect.signature(planish.load).parameters) == ["path", "threads"]
    assert list(inspect.signature(planish.rewrite).parameters)[:4] == ["model", "example_inputs", "passes", "verify"]


def test_keyword_inputs_and_one_lone_tensor() -> None:
    model = nn.Linear(4, 3).eval()
    x = torch.randn(2, 4)
    with torch.no_grad():
        want = model(x)
    for made in (planish.compile(model, x), planish.compile(model, example_kwargs={"input": x})):
        torch.testing.assert_close(made(x), want)
        torch.testing.assert_close(made(input=x), want)


def test_exported_programs_and_their_files(small: Small, tmp_path: Path) -> None:
    exported = torch.export.export(small, small_inputs())
    torch.export.save(exported, tmp_path / "small.pt2")
    with torch.no_grad():
        want = small(*small_inputs())["logits"]
    for model in (exported, tmp_path / "small.pt2", str(tmp_path / "small.pt2")):
        torch.testing.assert_close(planish.compile(model)(*small_inputs())["logits"], want)


def test_progress_is_called_with_what_done_and_total(small: Small) -> None:
    calls: list[tuple[str, int, int]] = []
    planish.compile(small, small_inputs(), progress=lambda *call: calls.append(call))
    assert {"capture", "passes", "kernels"} <= {what for what, _, _ in calls}
    assert all(0 <= done <= total for _, done, total in calls)
    for what in ("capture", "passes", "kernels"):
        last = [call for call in calls if call[0] == what][-1]
        assert last[1] == last[2]


def test_nothing_is_printed_unasked(small: Small, capfd: pytest.CaptureFixture[str]) -> None:
    planish.compile(small, small_inputs())
    assert capfd.readouterr() == ("", "")


def test_rewrite_runs_a_pipeline_by_name(small: Small) -> None:
    program = planish.rewrite(small, small_inputs(), passes="exact", verify=True)
    assert isinstance(program, planish.Program)
    assert "batch_norm" not in str(program)
    assert program.report
    with torch.no_grad():
        torch.testing.assert_close(program(*small_inputs()), small(*small_inputs()))


def test_rewrite_goes_on_with_a_program(small: Small) -> None:
    from planish.passes.pipelines import NORMALIZE

    normalized = planish.rewrite(small, small_inputs(), passes=NORMALIZE)
    assert "batch_norm" in str(normalized)
    assert len(planish.rewrite(normalized, passes=[]).report) == len(NORMALIZE)


@pytest.mark.parametrize(
    ("passes", "said"), [("exakt", "no pipeline 'exakt'"), ([3], "holds 3"), ([int], "holds int"), (3, "passes=3")]
)
def test_passes_that_are_none(small: Small, passes: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        planish.rewrite(small, small_inputs(), passes=passes)


class Unsupported(nn.Module):
    """Two kinds of operators that have no kernel, one of them twice, in named layers."""

    class Sorter(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sort(x, dim=-1).values

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self.Sorter(), self.Sorter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.topk(self.second(self.first(x).relu()), 2).values


def test_unsupported_operators_are_listed_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperators) as caught:
        planish.compile(Unsupported().eval(), (torch.randn(1, 4, 4),))
    text = str(caught.value)
    assert "2 x aten.sort" in text
    assert {"first", "second"} <= {op.layer for op in caught.value.ops}
    assert any("aten.topk" in op.op for op in caught.value.ops)
    assert all(op.source.partition(":")[0].endswith("test_api.py") for op in caught.value.ops)
    assert "torch.compile" in caught.value.todo


def test_train_mode_is_refused() -> None:
    with pytest.raises(TrainModeError, match="norm"):
        planish.compile(make_small().train(), small_inputs())


def test_no_model() -> None:
    with pytest.raises(ModelError):
        planish.compile(3, (torch.zeros(1),))
    with pytest.raises(ModelError, match=r"missing\.pt2"):
        planish.compile("missing.pt2")


@pytest.mark.parametrize("inputs", [{"x": torch.zeros(1)}, np.zeros((2, 3)), "x"])
def test_example_inputs_that_are_no_tuple(small: Small, inputs: Any) -> None:
    with pytest.raises(OptionError, match="example_kwargs"):
        planish.compile(small, inputs)


def test_example_kwargs_that_are_no_dict(small: Small) -> None:
    with pytest.raises(OptionError, match="example_kwargs is a Tensor"):
        planish.compile(small, small_inputs(), example_kwargs=torch.zeros(1))  # type: ignore[arg-type]


def test_torchscript_is_refused_by_name(small: Small) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(small, small_inputs(), strict=False)
    with pytest.raises(ModelError, match="is TorchScript"):
        planish.compile(scripted, small_inputs())


@pytest.mark.parametrize("path", [None, 3, b"small.planish"])
def test_paths_that_are_none(small_file: Path, path: Any) -> None:
    with pytest.raises(OptionError, match="is not a path"):
        planish.load(path)
    with pytest.raises(OptionError, match="is not a path"):
        planish.load(small_file).save(path)


def test_compiled_models_are_neither_pickled_nor_copied(small_file: Path) -> None:
    compiled = planish.load(small_file)
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(OptionError, match="cannot be pickled or copied"):
            copied(compiled)


def test_unknown_targets(small: Small) -> None:
    with pytest.raises(TargetError, match="znver99"):
        planish.compile(small, small_inputs(), target="znver99")


def test_code_for_another_machine_is_saved_but_not_called(small: Small, tmp_path: Path) -> None:
    made = planish.compile(small, small_inputs(), target="aarch64:neoverse-v1")
    made.save(tmp_path / "arm.planish")
    for call in (lambda: made(*small_inputs()), lambda: planish.load(tmp_path / "arm.planish")):
        with pytest.raises(CpuFeatureError, match="neoverse-v1"):
            call()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, shift: ((x[:, :2], shift), {}), "shape"),
        (lambda x, shift: ((x[0], shift), {}), "dimensions"),
        (lambda x, shift: ((x.double(), shift), {}), "float64"),
        (lambda x, shift: ((x,), {}), "'shift' is missing"),
        (lambda x, shift: ((x, shift), {"y": x}), "no input 'y'"),
        (lambda x, shift: (([x], shift), {}), "should be a tensor"),
    ],
)
def test_inputs_that_do_not_fit(compiled: Any, change: Any, said: str) -> None:
    args, kwargs = change(*small_inputs())
    with pytest.raises(InputError) as caught:
        compiled(*args, **kwargs)
    assert said in str(caught.value)
    assert caught.value.todo


def test_places_that_cannot_be_written(compiled: Any, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "folder.planish"):
        with pytest.raises(OutputError):
            compiled.save(path)
    assert not list(tmp_path.iterdir())


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for name, said in (("missing", "does not exist"), ("text", "not a planish artifact")):
        with pytest.raises(ArtifactError, match=said):
            planish.load(tmp_path / name)


def test_verify_finds_code_that_computes_something_else(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    from planish.backends.tvm.runtime import Compiled

    run = Compiled.run_flat
    monkeypatch.setattr(Compiled, "run_flat", lambda self, values: [value + 1e-3 for value in run(self, values)])
    with pytest.raises(MiscompiledError, match="code generation"):
        planish.compile(small, small_inputs(), verify=True)


def test_without_torch_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import planish\n"
        "try:\n    planish.compile(None)\nexcept planish.errors.MissingDependencyError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Compiling needs torch" in done.stdout
    assert "pip install 'planish[compile]'" in done.stdout
