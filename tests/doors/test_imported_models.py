"""Models that torchao quantized through every door: without data to integers, in float as they are, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pt2e import (
    XNNPACKQuantizer,
    convert_pt2e,
    converted,
    get_symmetric_quantization_config,
    images,
    mlp,
    prepare_pt2e,
    prepare_qat_pt2e,
    quantizer,
    resnet,
)
from torch import nn

import planish
from planish.cli import status
from planish.errors import ModelError, NotImported, OptionError

pytestmark = [pytest.mark.filterwarnings("ignore:XNNPACKQuantizer is deprecated"),
              pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao")]  # fmt: skip


def test_compiled_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the module, and from a file through the command line; in float the pairs are computed as they are."""
    quantized, x = converted(resnet(), "xnnpack"), images()[0]
    compiled = planish.compile(quantized, (x,), precision="int8", verify=True)
    assert compiled.manifest["options"]["quantization"] == {
        "codes": "imported", "keep_float": [], "integer_only": True,
    }  # fmt: skip
    fidelity = compiled.report.fidelity
    assert fidelity is not None
    assert fidelity.hops[0].noise == fidelity.hops[-1].noise == 0  # what was read, and compiled code
    (ledger,) = (entry for entry in compiled.report if entry.name == "integerize")
    assert not ledger.refused
    with torch.no_grad():
        wanted = quantized(x)
    assert float((planish.compile(quantized, (x,))(x) - wanted).abs().max()) < 0.02  # ties of a code of the output
    monkeypatch.chdir(tmp_path)
    torch.export.save(torch.export.export(quantized, (x,)), "net.pt2")
    assert status(["compile", "net.pt2", "-o", "net.planish", "--precision", "int8"]) == 0
    loaded = planish.load("net.planish")
    assert torch.equal(torch.as_tensor(loaded(x)), torch.as_tensor(compiled(x)))
    assert loaded.report.fidelity is not None  # measured on the inputs that it was exported with
    assert loaded.report.fidelity.layers == fidelity.layers


def test_the_manifest_says_what_data_chose() -> None:
    """Codes are those of the graph, whatever an observer said of the values without any."""
    how = planish.Quantization(observer="percentile", kept=0.999, measure=False)
    compiled = planish.compile(converted(mlp(), "x86"), (images()[0],), precision=how, calibration=images())
    assert compiled.manifest["options"]["quantization"] == {
        "codes": "imported", "observer": "percentile", "kept": 0.999, "keep_float": [], "integer_only": True,
    }  # fmt: skip


def test_what_needs_data_or_other_scales_says_so() -> None:
    with pytest.raises(OptionError, match="needs calibration data"):
        planish.compile(resnet(), (images()[0],), precision="int8")
    config = get_symmetric_quantization_config(is_dynamic=True)
    prepared = prepare_pt2e(torch.export.export(mlp(), (images()[0],)).module(), XNNPACKQuantizer().set_global(config))
    prepared(images()[0])
    with pytest.raises(NotImported, match="dynamic quantization"):
        planish.compile(convert_pt2e(prepared), (images()[0],), precision="int8")


@pytest.mark.parametrize(("prepare", "qat"), [(prepare_pt2e, False), (prepare_qat_pt2e, True)])
def test_what_was_prepared_and_not_converted_is_refused(prepare: Any, qat: bool) -> None:
    exported = torch.export.export(nn.Sequential(nn.Conv2d(3, 4, 1)).train(qat), (images()[0],)).module()
    prepared = prepare(exported, quantizer("x86", qat))
    for precision in ("int8", "float32"):
        with pytest.raises(ModelError, match=r"not converted: activation_post_process_1 is a \w+") as caught:
            planish.compile(prepared, (images()[0],), precision=precision)
        assert "convert_pt2e(model)" in caught.value.todo


@pytest.mark.parametrize("how", [{"evaluate": lambda compiled: 1.0, "max_drop": 0.1}, {"integer_only": False}])
def test_a_file_without_inputs_cannot_be_measured(how: dict[str, Any], tmp_path: Path) -> None:
    """Nothing says which layers to keep in float; without measuring, only those stay that have no integer form."""
    x = images()[0]
    exported = torch.export.export(converted(mlp(), "xnnpack"), (x,))
    exported.example_inputs = None
    torch.export.save(exported, tmp_path / "net.pt2")
    with pytest.raises(OptionError, match=f"{next(iter(how))}.*without inputs"):
        planish.compile(tmp_path / "net.pt2", precision=planish.Quantization(**how))
    if "evaluate" not in how:
        planish.compile(tmp_path / "net.pt2", precision=planish.Quantization(**how, measure=False))
