"""preprocess=planish.Image(...): the file takes uint8 images and computes what the model does of normalized ones."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close_to_reference
from torch import nn

import planish
from planish.cli import status
from planish.errors import InputError, OptionError
from planish.ir.image import Image
from planish.ir.interpret import reference_model
from planish.ir.program import Program
from planish.ir.text import parse_program, print_program
from planish.ir.verify import verify
from planish.passes.preprocess import take_images as module
from planish.passes.preprocess.take_images import from_pixels, take_images, to_pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def net(padding: int, padding_mode: str = "zeros") -> nn.Module:
    torch.manual_seed(padding)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, 2, padding, padding_mode=padding_mode), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 4, 3, padding=1),
    ).eval()  # fmt: skip


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def normalized(images: torch.Tensor) -> torch.Tensor:
    """By hand, in float64: NHWC bytes to what the model takes."""
    return ((images.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("padding", "mode"), [(0, "zeros"), (1, "zeros"), (3, "zeros"), (1, "reflect")])
def test_pixels_in(padding: int, mode: str) -> None:
    """Also where zeros are padded, which stand for a pixel of the mean and not for a black one."""
    model, images = net(padding, mode), pixels(2, 19, 15, 3)
    exact = normalized(images)
    with torch.no_grad():
        own = model(exact.float())
    compiled = planish.compile(model, (exact.float(),), preprocess=planish.Image(MEAN, STD), verify=True)
    assert str(compiled.signature.inputs[0]) == "input: uint8[2, 19, 15, 3]"
    assert_close_to_reference(compiled(images), reference_model(model, (exact,)), own)
    black = torch.zeros_like(images)
    with torch.no_grad():
        own = model(normalized(black).float())
    assert_close_to_reference(compiled(black), reference_model(model, (normalized(black),)), own)


def test_where_nothing_is_padded_the_weights_take_all_of_it() -> None:
    """A permutation and a cast are left, which the convolution may do while it reads."""
    program, _ = take_images(planish.rewrite(net(0), (torch.zeros(1, 3, 9, 9),)), Image(MEAN, STD))
    after = planish.rewrite(program)
    ops = [node.target.__name__ for node in after.graph.nodes if node.op == "call_function"]
    assert ops == ["permute.default", "_to_copy.default", "convolution.default", "relu.default", "convolution.default"]


def test_the_docstring() -> None:
    """Before becomes After, to the letter."""
    doc = inspect.getdoc(module) or ""
    before, rest = doc.split("\nBefore:\n")[1].split("\nAfter, with mean=0.5, std=0.25:\n")
    program, place = take_images(parse_program(textwrap.dedent(before)), Image(0.5, 0.25))
    verify(program)
    assert place == 0
    assert print_program(program) == textwrap.dedent(rest).strip()


def test_examples_are_pixels_or_what_the_model_takes(tmp_path: Path) -> None:
    """And a grey image in NCHW; what was compiled in stands in the file."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    image, images = planish.Image([0.5], 0.25, layout="NCHW"), pixels(1, 1, 8, 8)
    x = (images.double() / 255 - 0.5) / 0.25
    made = [planish.compile(model, (example,), preprocess=image) for example in (x.float(), images)]
    made.append(planish.compile(torch.export.export(model, (x.float(),)), preprocess=image))
    with torch.no_grad():
        own = model(x.float())
    for compiled in made:
        assert_close_to_reference(compiled(images), reference_model(model, (x,)), own)
    made[0].save(tmp_path / "grey.planish")
    kept = planish.load(tmp_path / "grey.planish").manifest["options"]["preprocess"]
    assert kept == {"mean": [0.5], "std": [0.25], "layout": "NCHW", "scale": 1 / 255}


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_from_pixels_and_back(layout: str) -> None:
    every = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 3).reshape(4, 8, 8, 3).contiguous()
    images = every if layout == "NHWC" else every.permute(0, 3, 1, 2).contiguous()
    image = Image(MEAN, STD, layout)
    x = from_pixels(images, image)
    torch.testing.assert_close(x, normalized(every).float())
    assert torch.equal(to_pixels(x, image), images)
    far = torch.full((1, 3, 1, 1), 1e6)
    assert to_pixels(far, image).flatten().tolist() == [255] * 3
    assert to_pixels(-far, image).flatten().tolist() == [0] * 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mean": "0.5"}, "mean='0.5' is no finite number"),
        ({"mean": float("nan")}, "mean=nan is no finite number"),
        ({"std": (1.0, None)}, "std=None is no finite number"),
        ({"std": ()}, "std is empty"),
        ({"std": (0.2, 0.0, 0.2)}, "std and scale have to be positive"),
        ({"scale": -1}, "std and scale have to be positive"),
        ({"mean": (1, 2, 3), "std": (1, 2)}, "mean has 3 channels and std 2"),
        ({"layout": "nhwc"}, "layout='nhwc' is unknown"),
        ({"input": 3}, "input=3 is no name"),
    ],
)
def test_numbers_that_are_none(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        planish.Image(**given)
    assert said in str(caught.value)


def program_of(*inputs: str) -> Program:
    args = ", ".join(f"%x{i}: {spec}" for i, spec in enumerate(inputs))
    return parse_program(f"program({args}) {{\n  %y = relu(%x0)\n  return %y\n}}")


@pytest.mark.parametrize(
    ("inputs", "image", "said"),
    [
        (["f32[2, 3]"], Image(), "the model has no input that is a batch of images"),
        (["i64[1, 3, 8, 8]"], Image(), "the model has no input that is a batch of images"),
        (["f32[1, 3, 8, 8]", "f32[1, 3, 4, 4]"], Image(), "several inputs that may be a batch of images"),
        (
            ["f32[1, 4, 8, 8]"],
            Image(MEAN),
            "input x0: float32[1, 4, 8, 8] is no batch of floating images of 3 channels",
        ),
        (["f32[1, 3, 8, 8]"], Image(input="y"), "there is no input 'y'"),
        (["f32[1, 3, 8, 8]", "i64[2]"], Image(input="x1"), "input x1: int64[2] is no batch of floating images"),
    ],
)
def test_models_without_images(inputs: list[str], image: Image, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        take_images(program_of(*inputs), image)
    assert said in str(caught.value)
    assert "x0" in caught.value.todo


def test_one_of_several_inputs() -> None:
    program, place = take_images(program_of("f32[1, 3, 8, 8]", "f32[1, 3, 4, 4]"), Image(input="x1"))
    assert place == 1
    assert [spec.dtype for spec in program.signature.inputs] == ["float32", "uint8"]


def test_trained_on_pixels() -> None:
    """The module takes the bytes that the file takes, and gives its bits; the example may be what the model takes."""
    model, image, images = net(1), planish.Image(MEAN, STD), pixels(4, 9, 7, 3)
    how = planish.Quantization(measure=False)
    items = [(normalized(images).float(), 0)]
    module: Any = planish.fake_quantize(
        model, images, calibration=items, select=lambda item: item[0], precision=how, preprocess=image
    )
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module(images).square().mean().backward()
    torch.optim.SGD(module.parameters(), 0.05).step()
    assert {name for name, _ in model.named_parameters()} <= {
        name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])
    }
    wanted = module(images).detach()
    for example, given in ((images, None), (normalized(images).float(), image)):
        compiled = planish.compile(module, example, precision=how, preprocess=given, verify=True)
        assert torch.equal(compiled(images), wanted)
        assert compiled.manifest["options"]["preprocess"] == image.to_json()
    own = model(normalized(images).float()).detach()
    assert float((wanted - own).norm() / own.norm()) < 0.05
    with pytest.raises(InputError, match="Input input is float32, and the module takes uint8 images"):
        module(normalized(images).float())
    with pytest.raises(OptionError, match="trained with those that it has") as caught:
        planish.compile(module, images, precision=how, preprocess=planish.Image(0.5, 0.5))
    assert "fake_quantize(model, images, preprocess=planish.Image(...))" in caught.value.todo


def test_torch_compile_has_none() -> None:
    with pytest.raises(OptionError, match=r"torch\.compile has no preprocess"):
        torch.compile(nn.ReLU(), backend="planish", options={"preprocess": Image()})(torch.zeros(1, 3, 2, 2))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images_net.py").write_text(
        "import torch\ndef net():\n    torch.manual_seed(1)\n    return torch.nn.Conv2d(3, 4, 3, padding=1).eval()\n"
    )
    monkeypatch.chdir(tmp_path)
    made = ["compile", "images_net:net", "--input", "input=f32[1,3,8,6]", "-o", "net.planish", "--json"]
    assert status([*made, "--mean", "0.485,0.456,0.406", "--std", "0.5", "--layout", "NHWC"]) == 0
    inputs = json.loads(capsys.readouterr().out)["signature"]["inputs"]
    assert inputs == [{"name": "input", "dtype": "uint8", "shape": [1, 8, 6, 3]}]
    images = pixels(1, 8, 6, 3)
    x = ((images.double() / 255 - torch.tensor(MEAN).double()) / 0.5).permute(0, 3, 1, 2)
    torch.manual_seed(1)
    model = nn.Conv2d(3, 4, 3, padding=1).eval()
    with torch.no_grad():
        own = model(x.float())
    result = planish.load("net.planish")(images.numpy())
    assert isinstance(result, np.ndarray)
    assert_close_to_reference(result, reference_model(model, (x,)), own)
    assert status([*made, "--mean", "half"]) == 1
    assert "--mean half is no list of numbers" in capsys.readouterr().err
