"""Keep what a layer needed from outliving the layer: patterns are dropped, freed memory goes back to the system."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def patterns_let_go(model: Any) -> Iterator[None]:
    """Drop each layer's pattern when the layer is done: TransformerLens 4.3 keeps them all (`attn._pattern`)."""

    def let_go(activation: Tensor, hook: Any) -> None:
        attention = model.blocks[int(hook.name.split(".")[1])].attn
        if getattr(attention, "_pattern", None) is not None:
            attention._pattern = None
        give_back_free_memory()

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_out", let_go) for layer in range(model.cfg.n_layers)]):
        yield


def give_back_free_memory() -> None:
    """Return freed heap pages to the system (glibc): tensors of growing size fragment it otherwise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
