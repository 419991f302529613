"""Carrying out a plan on a Hugging Face model as it is: no TransformerBridge, so sweeps and searches are faster.

Removed heads are filled in where z enters the output projection; windowed and compressed heads get a mask of their
own.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from headspec.errors import ModelError
from headspec.intervene.compress import Columns, CompressedHeads, compressed_heads
from headspec.intervene.hooks import filling
from headspec.intervene.masks import MASKED, visible_keys
from headspec.load.layout import AttentionLayer, attention_layers
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Window

Mask = Bool[Tensor, "_ _ query key"] | Float[Tensor, "_ _ query key"]
CACHES = ("past_key_values", "layer_past")
"""What the KV cache is called where attention is called."""
SEEN = "headspec_seen"
"""Where a mask of windows keeps what was seen without them, for a plan within a plan."""


@contextmanager
def plan_on_plain(model: PlainModel, plan: HeadPlan, prompt: int = 0) -> Iterator[None]:
    """Install the plan in a plain model, undo it at the end; `prompt` is that of `apply_plan`."""
    layers = attention_layers(model.huggingface, plan.about.d_head)
    with ExitStack() as undo:
        for number, layer in enumerate(layers):
            if fills := plan.fills_in(number):
                fill = _filling_input(fills, plan.about.d_head)
                undo.callback(layer.output.register_forward_pre_hook(fill).remove)
            if windows := plan.windows_in(number):
                narrow = _narrowing_mask(windows, plan.about.n_heads)
                undo.callback(layer.attention.register_forward_pre_hook(narrow, with_kwargs=True).remove)
            if compressed := compressed_heads(model, plan, number, partial(_w_o, layer), prompt):
                drop = compressing_mask(compressed, plan.about.n_heads)
                undo.callback(layer.attention.register_forward_pre_hook(drop, with_kwargs=True).remove)
        yield


def _w_o(layer: AttentionLayer) -> Float[Tensor, "head d_head d_model"]:
    return layer.w_o


def _filling_input(fills: dict[int, Any], d_head: int) -> Callable[..., Any]:
    fill = filling(fills)

    def hook(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        z = rearrange(inputs[0], "batch query (head d_head) -> batch query head d_head", d_head=d_head)
        return (rearrange(fill(z), "batch query head d_head -> batch query (head d_head)"),)

    return hook


def _narrowing_mask(windows: dict[int, Window], n_heads: int) -> Callable[..., Any]:
    """A pre-hook of the attention that replaces its mask by one a head."""

    def hook(module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        mask = _given_mask(module, _entering(inputs, keywords), keywords)
        return inputs, {**keywords, "attention_mask": head_masks(mask, windows, n_heads)}

    return hook


def compressing_mask(compressed: CompressedHeads, n_heads: int) -> Callable[..., Any]:
    """A pre-hook of a GPT-NeoX's attention that hides from compressed heads what these have dropped.

    Queries, keys and values are computed once more from what enters, until the prompt is complete.
    """

    def hook(module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if not compressed.prompt and _cache_in(keywords) is None:
            return None  # a whole text, all of it prompt
        entering = _entering(inputs, keywords)

        def columns() -> Columns:
            projected = module.query_key_value(entering)
            by_head = rearrange(projected, "b t (head kind d) -> kind b head t d", head=n_heads, kind=3)
            queries, keys, values = by_head[:, :, compressed.heads]
            return Columns.rotated(queries, keys, values, *keywords["position_embeddings"])

        mask = _given_mask(module, entering, keywords)
        dropped = compressed.drops(columns, seen_through(mask).expand(len(entering), -1, -1))
        if dropped is None:
            return None
        by_head = {head: dropped[:, place] for place, head in enumerate(compressed.heads)}
        return inputs, {**keywords, "attention_mask": hide(mask, by_head, n_heads)}

    return hook


def _entering(inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Float[Tensor, "row token d_model"]:
    return inputs[0] if inputs else keywords["hidden_states"]


def _cache_in(keywords: dict[str, Any]) -> Any:
    return next((keywords[name] for name in CACHES if keywords.get(name) is not None), None)


def _given_mask(module: Any, entering: Float[Tensor, "row token d_model"], keywords: dict[str, Any]) -> Mask:
    """The mask that an attention was given; without one nothing but causality counts: a whole text, or the next tokens
    after a cache."""
    if (mask := keywords.get("attention_mask")) is not None:
        return mask
    cache = _cache_in(keywords)
    if getattr(cache, "is_compileable", False):
        raise ModelError("a plan on a plain model cannot be read through a static cache: use a DynamicCache.")
    n_cached = 0 if cache is None else cache.get_seq_length(module.layer_idx)
    return causal_mask(entering.shape[1], entering.device, n_cached)


def causal_mask(n_queries: int, device: Any, n_cached: int = 0) -> Bool[Tensor, "1 1 query key"]:
    """What each query sees, after `n_cached` keys, without padding."""
    return torch.ones(1, 1, n_queries, n_cached + n_queries, dtype=torch.bool, device=device).tril(n_cached)


def head_masks(mask: Mask, windows: dict[int, Window], n_heads: int) -> Mask:
    """The mask of each head of a layer: what it was, less what its window hides."""
    seen = seen_through(mask)
    hidden = {head: ~visible_keys(seen, window.window, window.sinks) for head, window in windows.items()}
    return hide(mask, hidden, n_heads)


def seen_through(mask: Mask) -> Bool[Tensor, "_ query key"]:
    """What a query sees by a mask, whatever a plan around this one hides."""
    seen = getattr(mask, SEEN, None)
    if seen is not None:
        return seen
    return (mask if mask.dtype == torch.bool else mask > MASKED * torch.finfo(mask.dtype).min).any(dim=1)


def hide(mask: Mask, hidden: Mapping[int, Bool[Tensor, "row query key"]], n_heads: int) -> Mask:
    """The mask of each head: what it was, less what is hidden from it.

    Takes and gives both kinds that transformers has: True where a key is seen, or a number added to the scores.
    """
    nothing = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    n_rows = max(len(mask), *(len(keys) for keys in hidden.values()))
    masks = mask.expand(n_rows, n_heads, -1, -1).clone()
    for head, keys in hidden.items():
        masks[:, head] = masks[:, head].masked_fill(keys, nothing)
    setattr(masks, SEEN, seen_through(mask))
    return masks
