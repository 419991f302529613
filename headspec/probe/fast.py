"""The fast engine: statistics are read inside the attention itself, tile by tile, on a Hugging Face model.

transformers lets an attention function be registered (`AttentionInterface`). Ours computes ordinary causal attention
and sums each tile of weights while it is in the processor's cache: no pattern of the whole text, no KV cache, no copies
of the weights. Hooks of TransformerLens do not fire here.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headspec.errors import ModelError
from headspec.load.layout import AttentionLayer, attention_layers
from headspec.load.plain import PlainModel
from headspec.probe.memory import give_back_free_memory
from headspec.probe.reader import LayerReader
from headspec.probe.tiles import tile_limit, tile_of_scores, tile_sums

ATTENTION = "headspec_probe"
QUERY_BLOCK = 128
"""Queries a tile: few, so that little of the hidden half above the diagonal is computed."""
UNKNOWN_SCORES = ("softcap", "s_aux", "position_bias")
"""What some models do to their scores (Gemma 2, GPT-OSS, T5) and this engine does not know."""

HeadsFirst = Float[Tensor, "batch head token d_head"]
Shared = Float[Tensor, "batch kv_head token d_head"]
"""Keys and values: fewer heads where queries are grouped."""
_readers: WeakKeyDictionary[nn.Module, LayerReader] = WeakKeyDictionary()
"""Which reader listens to which attention module, while `_reading` is active."""


class FastEngine:
    """Sends whole windows of tokens through a Hugging Face model; a step is a layer."""

    def __init__(self, plain: PlainModel) -> None:
        self.model = plain.huggingface
        self.layers = attention_layers(self.model, plain.identity.d_head)
        _register()

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """The output weights of a layer's heads."""
        return self.layers[layer].w_o

    def steps(self, n_tokens: int, n_readers: int) -> int:
        """One a layer that is read."""
        return n_readers

    def read(
        self, tokens: Int[Tensor, "window token"], readers: list[LayerReader], done: int, step: Callable[[int], None]
    ) -> None:
        """Read one batch of windows; the first `done` readers have read it before. Calls `step(done)` after each."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(self._reading())
            for number, reader in enumerate(readers, start=1):
                reader.skipping = number <= done
                if reader.skipping:  # computed as before, or the layers after it would not be the same
                    _readers[self.layers[reader.layer].attention] = reader
                    continue
                last = number == len(readers)
                for handle in _listen(self.layers[reader.layer], reader, partial(_stepped, step, number, last)):
                    stack.callback(handle.remove)
            with suppress(_Done):
                self.model(tokens, use_cache=False)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Make the model use our attention function, and put back what it used before."""
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(ATTENTION)
        if self.model.config._attn_implementation != ATTENTION:
            raise ModelError(
                f"{type(self.model).__name__} does not let its attention be replaced (AttentionInterface): use "
                'engine="hooks".'
            )
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)
            for layer in self.layers:  # only ours: another model may be read at the same time
                _readers.pop(layer.attention, None)


class _Done(Exception):  # noqa: N818 (no error: the last layer has been read, the rest need not be computed)
    pass


def _register() -> None:
    """Make our attention function known to transformers; masks are made as for its own sdpa."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _listen(layer: AttentionLayer, reader: LayerReader, stepped: Callable[[], None]) -> list[Any]:
    """Hook one layer of the Hugging Face model up to its reader; answers the handles that undo it."""
    _readers[layer.attention] = reader

    def residual(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        reader.on_residual(inputs[0] if inputs else keywords["hidden_states"])

    handles = [
        layer.block.register_forward_pre_hook(residual, with_kwargs=True),
        layer.attention.register_forward_hook(lambda *_: stepped()),
    ]
    if reader.query_statistics:
        if layer.query is None:
            raise ModelError('query_statistics: the query projection is not where expected: use engine="hooks".')
        handles.append(layer.query.register_forward_hook(lambda *call: reader.on_query(layer.queries(call[-1]))))
    return handles


def _stepped(step: Callable[[int], None], number: int, last: bool) -> None:
    give_back_free_memory()
    step(number)
    if last:
        raise _Done


def _attention(
    module: nn.Module,
    query: HeadsFirst,
    key: Shared,
    value: Shared,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **keywords: Any,
) -> tuple[Float[Tensor, "batch token head d_head"], None]:
    """The attention function that transformers calls in each layer."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    reader = _readers.get(module)
    if reader is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **keywords)
    unknown = [name for name in UNKNOWN_SCORES if keywords.get(name) is not None]
    if unknown:
        raise ModelError(f'the fast engine does not know attention with {", ".join(unknown)}: use engine="hooks".')
    dtype = query.dtype
    reader.on_value(value.transpose(1, 2))
    key, value = (_for_every_head(each, query.shape[1]).float() for each in (key, value))
    query = query.float() * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    z = _read(reader, query, key, value, attention_mask).to(dtype)
    reader.on_z(z)
    return z, None


def _for_every_head(shared: Shared, n_heads: int) -> HeadsFirst:
    group = n_heads // shared.shape[1]
    return shared if group == 1 else repeat(shared, "batch kv token d -> batch (kv group) token d", group=group)


def _read(
    reader: LayerReader,
    query: HeadsFirst,
    key: HeadsFirst,
    value: HeadsFirst,
    mask: Bool[Tensor, "batch 1 token token"] | None,
) -> Float[Tensor, "batch token head d_head"]:
    """Causal attention in float32, block of queries by block; every tile is summed on the way. Returns z."""
    n_windows, n_heads, n_tokens, _ = query.shape
    blocks = []
    for start in range(0, n_tokens, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, n_tokens)
        heads = max(1, tile_limit(query.device) // (n_windows * (end - start) * end))
        parts, sums = [], []
        for first in range(0, n_heads, heads):
            some = slice(first, first + heads)
            scores = torch.matmul(query[:, some, start:end], key[:, some, :end].transpose(2, 3))
            tile = tile_of_scores(_hide(scores, start, mask), torch.arange(start, end, device=query.device))
            parts.append(torch.matmul(tile.pattern, value[:, some, :end]))
            if not reader.skipping:
                sums.append(tile_sums(tile, reader.value_norms[:, some, :end], reader.bins))
        if sums:
            reader.add_tiles(sums)
        blocks.append(torch.cat(parts, dim=1))
    return torch.cat(blocks, dim=2).transpose(1, 2).contiguous()


def _hide(scores: Tensor, start: int, mask: Tensor | None) -> Tensor:
    """Give the keys that a query may not see the lowest score, in place; `mask` is True where it may."""
    n_queries, n_keys = scores.shape[2:]
    lowest = torch.finfo(scores.dtype).min
    if mask is not None:
        return scores.masked_fill_(~mask[:, :, start : start + n_queries, :n_keys], lowest)
    future = torch.ones(n_queries, n_queries, dtype=torch.bool, device=scores.device).triu(1)
    scores[..., start:].masked_fill_(future, lowest)
    return scores
