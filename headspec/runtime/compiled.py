"""Decoding through a compiled graph: one token at a time, with the buffers of the cache that read the prompt."""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .cache import PrunedCache
from .functional import Past, PureStep, layout_of
from .linear import FastLinear
from .stores import FullStore, RingStore


class CompiledDecoding:
    """A graph of one token of a model, for all positions.

    Args:
        model: A PrunedGPTNeoXForCausalLM.
        options: Of torch.compile.
    """

    def __init__(self, model: Any, options: dict[str, Any]):
        self.model, self.options = model, options
        self._run: Any = None

    def __reduce__(self) -> tuple:
        """A copy of the model gets a graph of its own."""
        return CompiledDecoding, (self.model, self.options)

    def serves(self, tokens: Tensor | None, cache: Any, others: dict[str, Any]) -> bool:
        """Whether the graph computes what is asked for; `others`: arguments of `forward` that it knows nothing of."""
        beyond = any(value is not None and value is not False for value in others.values())
        if tokens is None or tokens.shape[1] != 1 or beyond:
            return False
        if torch.is_grad_enabled() or self.model.training or not isinstance(cache, PrunedCache):
            return False
        if cache.policy is not None:
            return False
        stores = [store for layer in cache.layers for store in layer.stores]
        plain = all(type(store) in (FullStore, RingStore) and store.buffer is not None for store in stores)
        return plain and cache.get_seq_length() > 0 and _left_padded(cache.real)

    @torch.no_grad()
    def step(self, tokens: Any, mask: Tensor | None, positions: Tensor | None, cache: PrunedCache) -> Tensor:
        """Logits `[batch, 1, vocabulary]` of one more token of each row, which the cache then holds."""
        if self._run is None:
            self._run = self._made()
        n_past = cache.get_seq_length()
        cache.real = self.model.gpt_neox.check_columns(tokens, mask, cache)
        starts = tokens.new_zeros(len(tokens)) if cache.real is None else cache.real.int().argmax(1)
        if positions is None:
            positions = tokens.new_full((1, 1), n_past)
        positions = positions.expand(len(tokens), 1)
        buffers = [
            store.with_room(store.buffer, n_past, n_past + 1)
            for layer in cache.layers
            for store in layer.stores
            if store.buffer is not None
        ]
        tokens, positions = (part.clone(memory_format=torch.contiguous_format) for part in (tokens, positions))
        logits = self._run(tokens, positions, torch.tensor(n_past, device=tokens.device), starts, *buffers)
        for layer in cache.layers:
            layer.length = n_past + 1
            for store in layer.stores:
                store.appended(n_past + 1)
        return logits

    def _made(self) -> Callable[..., Tensor]:
        """The graph; of weights that lie as the eager form would have them, as graphs are compiled for where they lie.

        It is given tokens and positions that always lie alike, for the same reason.
        """
        for module in self.model.modules():
            if isinstance(module, FastLinear) and module.weight.device.type == "cpu":
                module.lay_out()
        layout, options = layout_of(self.model.config), {"fullgraph": True, **self.options}
        return torch.compile(_own(in_place)(PureStep(self.model, layout), layout), **options)


def in_place(function: PureStep, layout: list[list[Past]]) -> Callable[..., Tensor]:
    """The step that puts the new keys and values into the buffers they came in."""
    groups = [group for layer in layout for group in layer]

    def run(tokens: Tensor, positions: Tensor, n_past: Tensor, starts: Tensor, *buffers: Tensor) -> Tensor:
        logits, *new = function(tokens, positions, n_past, starts, *buffers)
        for group, buffer, kv in zip(groups, buffers, new, strict=True):
            n_ring = buffer.shape[3] - group.sinks
            slot = group.sinks + n_past % n_ring if group.windows else n_past
            if group.sinks:
                here = starts[:, None] + torch.arange(group.sinks, device=n_past.device) == n_past
                front = buffer[:, :, :, : group.sinks]
                front.copy_(torch.where(here[:, None, :, None], kv, front))
            buffer.index_copy_(3, slot.view(1), kv)
        return logits

    return run


def _own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with code of its own: torch.compile counts recompilations by code, whatever model they are of."""

    def made(*arguments: Any) -> Any:
        run = function(*arguments)
        return FunctionType(run.__code__.replace(), run.__globals__, run.__name__, run.__defaults__, run.__closure__)

    return made


def _left_padded(real: Tensor | None) -> bool:
    """Whether padding is in front of rows only."""
    return real is None or bool((real[:, 1:] >= real[:, :-1]).all() and real[:, -1].all())
