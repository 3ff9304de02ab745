"""Every operator: schema, fake tensors, layout, text form."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from planish.errors import QuantizationError
from planish.ir import ops
from planish.ir.quantized.operators import OPERATORS
from planish.ir.text import parse_program

U8, S8, S16, S32 = torch.uint8, torch.int8, torch.int16, torch.int32


def codes(*shape: int, dtype: torch.dtype = U8, seed: int = 0) -> Tensor:
    """Random codes over all of an 8 or 16 bit dtype."""
    limits = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(limits.min, limits.max + 1, shape, generator=generator).to(dtype)


ONE, THIRTY = torch.tensor(2**30), torch.tensor(30)
BYTE = (3, 0, 255, U8)
IMAGE = codes(2, 4, 7, 5)
SAMPLES: dict[str, list[tuple[Any, ...]]] = {
    "quantize": [(torch.randn(2, 3), 0.1, *BYTE), (torch.randn(4, 3).T, 0.1, 0, -128, 127, S8)],
    "dequantize": [(IMAGE, torch.tensor(0.5), 128), (IMAGE.transpose(1, 3), torch.rand(4), 128)],
    "requantize": [
        (codes(2, 3, dtype=S16).to(S32), ONE, THIRTY, 0, *BYTE),
        (IMAGE.transpose(0, 3), ONE.expand(7, 1), THIRTY, 9, *BYTE),
    ],
    "convolution": [
        (IMAGE, codes(6, 2, 3, 2, dtype=S8), codes(6, dtype=S16).to(S32), 7, [2, 1], [1, 0], [1, 2], False, [0, 0], 2),
        (IMAGE, codes(4, 2, 3, 3, dtype=S8), None, 7, [2, 2], [1, 1], [1, 1], True, [1, 0], 2),
        (codes(1, 2, 9), codes(2, 1, 3, dtype=S8), None, 0, [1], [1], [1], False, [0], 2),
        (codes(1, 2, 4, 4, 4), codes(3, 2, 2, 2, 2, dtype=S8), None, 0, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1),
    ],
    "linear": [(codes(2, 3, 4), codes(5, 4, dtype=S8), None, 1), (codes(4), codes(5, 4, dtype=S8), torch.arange(5), 1)],
    "matmul": [(codes(2, 1, 3, 4), codes(5, 4, 2, dtype=S8), 128), (codes(3, 4), codes(4, dtype=S8), 0)],
    "mul": [(IMAGE, codes(2, 4, 1, 1, seed=1), 3, 0)],
    "add": [(IMAGE, codes(4, 1, 1, dtype=S8), ONE // 2, -ONE // 2, THIRTY - 1, 128, 0, *BYTE)],
    "sum": [(IMAGE, [2, 3], True, 128), (IMAGE, [1], False, 0)],
    "sum_pool": [
        (IMAGE, 128, [3, 3], [2, 2], [1, 1], True),
        (IMAGE[0], 128, [3], [2], [1], False),
        (IMAGE[None], 0, [1, 2, 2], [1, 2, 2], [0, 1, 1], True),
    ],
    "max_pool": [
        (IMAGE, [3, 3], [2, 2], [1, 1], [1, 1], True),
        (IMAGE[0].to(S16), [3], [2], [1], [2], False),
        (IMAGE[None], [1, 2, 2], [1, 2, 2], [0, 1, 1], [1, 1, 1], False),
    ],
    "resize": [(IMAGE, torch.tensor([[0, 1, 6], [1, 2, 6]]), torch.tensor([[3, 2, 1], [1, 2, 3]]).to(S32), 2, 5)],
    "lookup": [(IMAGE, codes(256)), (codes(3, dtype=S8), codes(256, dtype=S16).to(S32))],
    "curve": [(codes(9, dtype=S16), torch.arange(1536).reshape(512, 3).to(S32), 4, -9, 9, S16)],
    "softmax": [
        (codes(2, 5), None, 2**30, 10, -1, 8, U8),
        (codes(2, 5).to(S32), torch.tensor([[True, False, True, True, False]]), 2**30, 10, 0, 15, S16),
    ],
    "layer_norm": [(codes(2, 3, 8), codes(8).to(torch.int64), codes(8).to(torch.int64), 1, 128, 7, 20, *BYTE)],
    "rms_norm": [(codes(2, 3, 8), torch.ones(1).long(), torch.ones(1).long(), 2, 128, 7, 20, *BYTE)],
}
CASES = [pytest.param(name, args, id=f"{name}-{i}") for name, all_ in SAMPLES.items() for i, args in enumerate(all_)]


def overload(name: str) -> Any:
    return getattr(torch.ops.planish, name).default


def test_every_operator_has_samples() -> None:
    assert [operator.name for operator in OPERATORS] == list(SAMPLES)


@pytest.mark.parametrize(("name", "args"), CASES)
def test_fakes_have_the_type_of_what_is_computed(name: str, args: tuple[Any, ...]) -> None:
    op = overload(name)
    assert not op._schema.is_mutable
    before = [a.clone() if isinstance(a, Tensor) else a for a in args]
    real = op(*args)
    assert all(torch.equal(a, b) for a, b in zip(args, before, strict=True) if isinstance(a, Tensor))
    with FakeTensorMode() as mode:
        fake = op(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args))
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
    assert real.is_contiguous()
    inputs = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
    assert real.untyped_storage().data_ptr() not in inputs


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "quantize"])
def test_floats_are_refused(name: str) -> None:
    args = list(SAMPLES[name][0])
    args[0] = args[0].float()
    with pytest.raises(QuantizationError, match=r"float32"):
        overload(name)(*args)


BOUNDED: dict[str, Callable[[int, int], tuple[Any, ...]]] = {
    name: lambda low, high, name=name: (*SAMPLES[name][0][:-3], low, high, U8)  # type: ignore[misc]
    for name in ("quantize", "requantize", "add", "curve", "layer_norm", "rms_norm")
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize(("low", "high"), [(-1, 255), (0, 256), (9, 8)])
def test_bounds_beyond_the_dtype_are_refused(name: str, low: int, high: int) -> None:
    with pytest.raises(QuantizationError, match="cannot hold"):
        overload(name)(*BOUNDED[name](low, high))


def test_the_text_form_reads_and_prints_them() -> None:
    text = """program(%x: f32[1, 2, 3, 3]) {
  @w: i8[2, 2, 1, 1] = [[[[1]], [[2]]], [[[3]], [[-4]]]]
  @multiplier: i64[] = 1073741824
  @shift: i64[] = 30
  @scale: f32[] = 0.5
  %q: u8[1, 2, 3, 3] = planish::quantize(%x, 0.5, 128, 0, 255, u8)
  %c: i32[1, 2, 3, 3] = planish::convolution(%q, @w, none, 128, [1, 1], [0, 0], [1, 1], false, [0, 0], 1)
  %r: u8[1, 2, 3, 3] = planish::requantize(%c, @multiplier, @shift, 0, 128, 0, 255, u8)
  %y: f32[1, 2, 3, 3] = planish::dequantize(%r, @scale, 128)
  return %y
}"""
    program = parse_program(text)
    assert str(program) == text
    # codes of 1 and -1.5 are 130 and 125: 2 + 2·(-3) = -4 and 3·2 - 4·(-3) = 18, halves of them -2 and 9
    y = program(torch.tensor([1.0, -1.5]).reshape(1, 2, 1, 1).expand(1, 2, 3, 3))
    assert y[0, :, 0, 0].tolist() == [-2.0, 9.0]


def test_nothing_is_registered_before_it_is_asked_for() -> None:
    code = "import planish, torch; import planish.ir.text; print(hasattr(torch.ops.planish, 'add'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_they_are_pure_and_of_one_family() -> None:
    """So equal calls may be merged and unused ones dropped; no float family's rewrites apply."""
    text = "program(%x: u8[4]) {\n  %y = planish::sum(%x, [0], true, 0)\n  return %y\n}"
    node = next(n for n in parse_program(text).graph.nodes if n.name == "y")
    assert (ops.family(node), ops.is_pure(node)) == ("integer", True)
    assert ops.info(node).linear_in == ()  # type: ignore[union-attr]
