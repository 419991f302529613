"""What can be seen of a model from outside, and how a probe is interrupted in the middle of a layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from headspec.probe.reader import LayerReader


def hook_count(model: Any) -> int:
    """Hooks of torch and, on a bridge, of TransformerLens."""
    torch_hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
    points = getattr(model, "hook_dict", {}).values()
    return torch_hooks + sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points)


def logits(model: Any, tokens: Tensor) -> Tensor:
    """The logits of a bridge, a plain model or a Hugging Face model."""
    with torch.no_grad():
        found = model(tokens)
    return found if isinstance(found, Tensor) else found.logits


def fails_on_call(number: int) -> Callable[..., None]:
    """`LayerReader.on_z`, but it raises when it is called for the `number`-th time."""
    original, calls = LayerReader.on_z, iter(range(1, 10**6))

    def method(self: LayerReader, z: Tensor, hook: Any = None) -> None:
        if next(calls) == number:
            raise KeyboardInterrupt("stopped in the middle of a layer")
        original(self, z)

    return method


@contextmanager
def interrupted(call: int) -> Iterator[None]:
    """Interrupt what is probed inside when the outputs of a layer are read for the `call`-th time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerReader, "on_z", fails_on_call(call))
        with pytest.raises(KeyboardInterrupt, match="in the middle of a layer"):
            yield


@contextmanager
def counted() -> Iterator[list[int]]:
    """The layers whose outputs are read inside, in order, one entry a step; those passed over do not count."""
    original, layers = LayerReader.on_z, list[int]()

    def method(self: LayerReader, z: Tensor, hook: Any = None) -> None:
        if not self.skipping:
            layers.append(self.layer)
        original(self, z)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerReader, "on_z", method)
        yield layers
