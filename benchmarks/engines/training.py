"""One training step of a network whose batch norms stay in eval mode: forward, backward, gradients of every parameter.

`eval` runs convolution and norm one after the other; `tune` is planish's Tune mode; `inductor_own` is the pass that
inductor brings for the same identity. None has a form to save: the model is made again where it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..case import Case
from .base import Arrays, Loaded
from .pytorch import Eager, arrays

Call = Callable[..., Any]


class Eval(Eager):
    """PyTorch eager."""

    def refuses(self, case: Case) -> str | None:
        """Steps are measured in float32."""
        return "training is measured in float32" if case.precision != "float32" else None

    def load(self, case: Case, folder: Path, inputs: Arrays) -> Loaded:
        """The model in memory; what its first call compiles, and what its second keeps for the backward pass."""
        import torch

        torch.set_num_threads(case.threads)
        model, args, kwargs = case.sample()
        function = self.prepared(model)

        def step() -> Any:
            model.zero_grad(set_to_none=True)
            result = function(*args, **kwargs)
            loss(result).backward()
            return result

        step()
        kept = {"saved_bytes": saved(model, lambda: function(*args, **kwargs))}
        return Loaded(step, lambda result: arrays(_detached(result)), kept)


class Tune(Eval):
    """Tune mode, its graph run by eager."""

    def prepared(self, model: Any) -> Call:
        """The twin that shares all parameters."""
        import planish

        return planish.tune_mode(model)


class InductorEval(Eval):
    """inductor as it is."""

    def prepared(self, model: Any) -> Call:
        """Compiled by the first call."""
        import torch

        return torch.compile(model)  # type: ignore[no-any-return]


class InductorOwn(InductorEval):
    """inductor with its own pass for convolutions before batch norms, which is off by default."""

    def prepared(self, model: Any) -> Call:
        """Compiled by the first call."""
        from torch._inductor import config

        config.efficient_conv_bn_eval_fx_passes = True
        return super().prepared(model)


class InductorTune(Eval):
    """Tune mode, its graph run by inductor."""

    def prepared(self, model: Any) -> Call:
        """The twin that shares all parameters."""
        import planish

        return planish.tune_mode(model, inner="inductor")


def loss(result: Any) -> Any:
    """A number that every output moves, each by its own value."""
    import torch
    from torch.utils._pytree import tree_leaves

    return sum(t.square().sum() for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.is_floating_point())


def saved(model: Any, forward: Callable[[], Any]) -> int:
    """Bytes that a forward pass keeps for the backward pass: storages that are no parameters, each once."""
    import torch

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # what is kept lives as long as this, so that no two have one address
    total = sum(size for place, size in found.items() if place not in own)
    del result
    return total


def _detached(result: Any) -> Any:
    import torch
    from torch.utils._pytree import tree_map

    return tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, result)
