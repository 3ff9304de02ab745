"""What a captured graph must be to become a Program: plain weights, ATen calls alone, static shapes, no training."""

from __future__ import annotations

import operator

import torch
from torch import fx

from ..errors import CaptureError, DynamicShapeError, ModelError
from .origins import origin

NO_STATE = "Take the state as an input and return the new state as an output."
"""What to do about mutation."""
_WATCHING = ("ObserverBase", "FakeQuantizeBase", "AffineQuantizedObserverBase")
"""What observers and fake quantizers of PyTorch and of torchao are, which planish need not have."""
_NO_BRANCH = "Use tensor operations (torch.where instead of if, no .item()), or pass the value as a Python constant."


def refuse_unreadable(name: str, tensor: torch.Tensor) -> None:
    """A weight must be plain numbers in memory."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer) or tensor.is_meta:
        where = "on the meta device" if tensor.is_meta else "of its own class"
        raise CaptureError(
            f"Weight {name!r} holds no plain data: it is a {type(tensor).__name__} {where}.",
            "Load or initialize the weights before capture; replace tensor subclasses by plain tensors.",
        )
    layout = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
    if layout != "strided":
        raise CaptureError(f"Weight {name!r} is a {layout} tensor.", "Make it dense (.to_dense(), .dequantize()).")


def refuse_observers(model: torch.nn.Module) -> None:
    """A model between preparing and converting it for quantization watches its values, and changes as it does."""
    for path, module in model.named_modules():
        if any(base.__name__ in _WATCHING for base in type(module).__mro__):
            raise ModelError(
                f"The model is prepared for quantization, but not converted: {path} is a {type(module).__name__}.",
                "Convert it first, convert_pt2e(model), and pass the result; or pass the float model that it was.",
            )


def refuse_odd_call(node: fx.Node) -> None:
    """Refuse control flow, numbers taken out of tensors, and shapes that depend on data."""
    if not isinstance(node.target, torch._ops.OpOverload) and node.target is not operator.getitem:
        name = getattr(node.target, "__name__", str(node.target))
        raise CaptureError(f"The model uses {name}, which is not an ATen operator{place_of(node)}.", _NO_BRANCH)
    values = node.meta.get("val")
    for value in values if isinstance(values, list | tuple) else [values]:
        if isinstance(value, torch.Tensor) and not all(isinstance(d, int) for d in value.shape):
            raise DynamicShapeError(
                f"{node.target} returns a shape that depends on the data, {list(value.shape)}{place_of(node)}.",
                "Keep shapes fixed: torch.where or a mask instead of nonzero, boolean indexing or unique.",
            )
        if value is not None and not isinstance(value, torch.Tensor):
            raise CaptureError(f"{node.target} takes a Python number out of a tensor{place_of(node)}.", _NO_BRANCH)


def is_training(node: fx.Node) -> bool:
    """Whether this call does something only while training."""
    aten = torch.ops.aten
    if node.target in (aten._native_batch_norm_legit.default, aten._native_batch_norm_legit_functional.default):
        return True
    flag = {aten.dropout.default: 2, aten.native_dropout.default: 2, aten.feature_dropout.default: 2}
    if node.target in flag:
        return node.args[flag[node.target]] is not False and bool(node.args[1])
    if node.target is aten.scaled_dot_product_attention.default:
        return len(node.args) > 4 and bool(node.args[4])
    return False


def place_of(node: fx.Node | None) -> str:
    """` in layer1.0 at model.py:12`, as much of it as is known."""
    if node is None:
        return ""
    where = origin(node)
    layer = f" in {where.layer}" if where.layer else ""
    return f"{layer} at {where.source}" if where.source else layer
