"""MODEL, --weights and --input: what they make, and what each wrong one says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model

from planish.errors import ModelError, OptionError, PlanishError
from planish.models import example_inputs, example_tensor, load_model, load_weights

SOURCE = """
import torch

class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4, bias=False)
        self.second = torch.nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x, mask=None, *, scale):
        return self.second(self.first(x)) * scale

instance = Tied()
number = 3

class outer:
    inner = Tied

def broken():
    raise RuntimeError("no such checkpoint\\nsecond line")

def quits():
    raise SystemExit(0)

def returns_a_dict():
    return {}

def needs_arguments(width):
    return Tied()
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, under a name of its own."""
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / f"bad_{name}.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("attribute", ["Tied", "instance", "outer.inner"])
def test_factories_from_the_current_folder(nets: str, attribute: str) -> None:
    assert type(load_model(f"{nets}:{attribute}")).__name__ == "Tied"


def test_exported_files_stay_paths() -> None:
    assert load_model("some/net.pt2") == "some/net.pt2"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nets", "'nets' is no model"),
        ("{nets}:", "is no model"),
        ("no_such_module_:f", "cannot be imported: ModuleNotFoundError"),
        ("bad_{nets}:f", "No module named 'no_such_library'"),
        ("{nets}:tied", "Did you mean 'Tied'"),
        ("{nets}:outer.iner", "Did you mean 'inner'"),
        ("{nets}:number", "is a int, not a factory"),
        ("{nets}:broken", "failed: RuntimeError: no such checkpoint\n"),
        ("{nets}:quits", "failed: SystemExit: 0"),
        ("{nets}.py:Tied", "Write {nets}:Tied"),
        ("..{nets}:Tied", "is no model"),
        ("{nets}:needs_arguments", "missing 1 required positional argument: 'width'"),
        ("{nets}:returns_a_dict", "returned a dict"),
    ],
)
def test_models_that_are_none(nets: str, spec: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(spec.format(nets=nets))
    assert said.format(nets=nets) in str(caught.value)


def test_weights_are_loaded_with_tied_ones_stored_once(nets: str, tmp_path: Path) -> None:
    source = load_model(f"{nets}:Tied")
    save_model(source, str(tmp_path / "w.safetensors"))
    model = load_model(f"{nets}:Tied", tmp_path / "w.safetensors")
    assert torch.equal(model.second.weight, source.first.weight)


def test_missing_and_unexpected_weights_are_named(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2, 3), "extra": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"missing: bias; unexpected: extra"):
        load_weights(torch.nn.Linear(3, 2), tmp_path / "w.safetensors")


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    save_model(torch.nn.Linear(3, 2), str(tmp_path / "w.safetensors"))
    with pytest.raises(ModelError, match="size mismatch for weight"):
        load_weights(torch.nn.Linear(4, 2), tmp_path / "w.safetensors")


@pytest.mark.parametrize(("content", "said"), [(None, "There is no weights file"), (b"not tensors", "do not fit")])
def test_weights_files_that_are_none(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=said):
        load_weights(torch.nn.Linear(3, 2), path)


def test_an_exported_file_takes_no_weights() -> None:
    with pytest.raises(OptionError, match=r"net\.pt2 has its own weights"):
        load_model("net.pt2", "w.safetensors")


@pytest.mark.parametrize(
    ("spec", "dtype", "shape"),
    [
        ("f32[1,3,8,8]", torch.float32, (1, 3, 8, 8)),
        ("float32[2, 3]", torch.float32, (2, 3)),
        ("bf16[4]", torch.bfloat16, (4,)),
        ("i64[1,16]", torch.int64, (1, 16)),
        ("bool[5]", torch.bool, (5,)),
        ("f64[]", torch.float64, ()),
    ],
)
def test_example_tensors(spec: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = example_tensor("x", spec)
    assert tensor.dtype == dtype
    assert tuple(tensor.shape) == shape
    assert torch.equal(tensor, example_tensor("x", spec))


def test_integers_are_valid_indices_and_masks_keep_something() -> None:
    assert not example_tensor("ids", "i32[2,3]").any()
    assert example_tensor("mask", "bool[2,3]").all()


def test_example_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    assert torch.equal(example_tensor("x", str(tmp_path / "x.npy")), torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("1,3,8,8", "is neither a shape nor a .npy file"),
        ("f33[1]", "Did you mean 'f32'"),
        ("nn[1]", "unknown dtype 'nn'"),
        ("f32[1,-3]", "is neither a shape"),
        ("f32[1 2]", "malformed shape"),
        ("missing.npy", "There is no file missing.npy"),
    ],
)
def test_examples_that_are_none(spec: str, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        example_tensor("x", spec)
    assert said in str(caught.value)


def test_inputs_are_checked_against_forward(nets: str) -> None:
    model = load_model(f"{nets}:Tied")
    assert set(example_inputs(model, {"x": "f32[1,4]", "scale": "f32[1]"})) == {"x", "scale"}
    for specs, said in (({"x": "f32[1,4]"}, "'scale' has no example"), ({"y": "f32[1]"}, "no input 'y'")):
        with pytest.raises(PlanishError, match=said):
            example_inputs(model, specs)
