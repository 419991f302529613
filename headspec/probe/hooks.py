"""The hooks engine: TransformerLens hooks read statistics while text goes through a TransformerBridge in segments.

Everything a user has hooked (ablations, windows) is in force, and so is in the numbers.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headspec.errors import ModelError
from headspec.probe.memory import patterns_let_go
from headspec.probe.reader import LayerReader


class HooksEngine:
    """Sends windows of tokens through a TransformerBridge with a KV cache; a step is a segment."""

    def __init__(self, model: Any, segment: int) -> None:
        if not hasattr(model, "blocks"):
            raise ModelError(
                f'{type(model).__name__} has no hooks: use engine="fast", or load it with load_model(name).'
            )
        self.model, self.segment = model, segment

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """The output weights of a layer's heads."""
        return self.model.blocks[layer].attn.W_O

    def steps(self, n_tokens: int, n_readers: int) -> int:
        """One a segment."""
        return math.ceil(n_tokens / self.segment)

    def read(
        self, tokens: Int[Tensor, "window token"], readers: list[LayerReader], done: int, step: Callable[[int], None]
    ) -> None:
        """Read one batch of windows; its first `done` segments have been read before and only fill the cache.

        Calls `step(done)` after each segment that is read.
        """
        from transformers import DynamicCache

        cache = DynamicCache() if tokens.shape[1] > self.segment else None
        hooks = [hook for reader in readers for hook in reader.hooks()]
        last = readers[-1].layer + 1
        keywords = self._keywords() | ({"stop_at_layer": last} if last < self.model.cfg.n_layers else {})
        with torch.no_grad(), patterns_let_go(self.model), self.model.hooks(fwd_hooks=hooks):
            for number, piece in enumerate(tokens.split(self.segment, dim=1), start=1):
                for reader in readers:
                    reader.skipping = number <= done
                self.model(piece, past_key_values=cache, return_type=None, **keywords)
                if number > done:
                    _check_seen(readers)
                    step(number)

    def _keywords(self) -> dict[str, Any]:
        """Ask for the last logits only, where the model can: nobody reads them."""
        forward = inspect.signature(type(self.model.original_model).forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in forward else {}


def _check_seen(readers: list[LayerReader]) -> None:
    for reader in readers:
        if not {"patterns", "outputs"} <= reader.sums.keys():
            raise ModelError(
                f"layer {reader.layer} fired no hook_pattern or hook_z: headspec probes decoders with ordinary "
                "softmax attention in every layer. Leave this layer out with layers=."
            )
