"""Carrying out a plan on a Hugging Face model as it is: no TransformerBridge, so sweeps and searches are faster.

Removed heads are filled in where z enters the output projection; windowed heads get a mask of their own.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from headspec.errors import ModelError
from headspec.intervene.hooks import filling
from headspec.intervene.masks import MASKED, visible_keys
from headspec.load.layout import attention_layers
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Window

Mask = Bool[Tensor, "batch _ query key"] | Float[Tensor, "batch _ query key"]
CACHES = ("past_key_values", "layer_past")
"""What the KV cache is called where attention is called."""
SEEN = "headspec_seen"
"""Where a mask of windows keeps what was seen without them, for a plan within a plan."""


@contextmanager
def plan_on_plain(model: PlainModel, plan: HeadPlan) -> Iterator[None]:
    """Install the plan in a plain model, undo it at the end."""
    layers = attention_layers(model.huggingface, plan.about.d_head)
    with ExitStack() as undo:
        for number, layer in enumerate(layers):
            if fills := plan.fills_in(number):
                fill = _filling_input(fills, plan.about.d_head)
                undo.callback(layer.output.register_forward_pre_hook(fill).remove)
            if windows := plan.windows_in(number):
                narrow = _narrowing_mask(windows, plan.about.n_heads)
                undo.callback(layer.attention.register_forward_pre_hook(narrow, with_kwargs=True).remove)
        yield


def _filling_input(fills: dict[int, Any], d_head: int) -> Callable[..., Any]:
    fill = filling(fills)

    def hook(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        z = rearrange(inputs[0], "batch query (head d_head) -> batch query head d_head", d_head=d_head)
        return (rearrange(fill(z), "batch query head d_head -> batch query (head d_head)"),)

    return hook


def _narrowing_mask(windows: dict[int, Window], n_heads: int) -> Callable[..., Any]:
    """A pre-hook of the attention that replaces its mask by one a head."""

    def hook(module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        hidden, mask = inputs[0] if inputs else keywords["hidden_states"], keywords.get("attention_mask")
        if mask is None:  # nothing but causality: a whole text, or the next tokens after a cache
            cache = next((keywords[name] for name in CACHES if keywords.get(name) is not None), None)
            if getattr(cache, "is_compileable", False):
                raise ModelError("windows on a plain model cannot be read through a static cache: use a DynamicCache.")
            n_cached = 0 if cache is None else cache.get_seq_length(module.layer_idx)
            mask = causal_mask(hidden.shape[1], hidden.device, n_cached)
        return inputs, {**keywords, "attention_mask": head_masks(mask, windows, n_heads)}

    return hook


def causal_mask(n_queries: int, device: Any, n_cached: int = 0) -> Bool[Tensor, "1 1 query key"]:
    """What each query sees, after `n_cached` keys, without padding."""
    return torch.ones(1, 1, n_queries, n_cached + n_queries, dtype=torch.bool, device=device).tril(n_cached)


def head_masks(mask: Mask, windows: dict[int, Window], n_heads: int) -> Mask:
    """The mask of each head of a layer: what it was, less what its window hides.

    Takes and gives both kinds that transformers has: True where a key is seen, or a number added to the scores.
    """
    boolean = mask.dtype == torch.bool
    seen = getattr(mask, SEEN, None)
    if seen is None:
        seen = (mask if boolean else mask > MASKED * torch.finfo(mask.dtype).min).any(dim=1)
    masks = mask.expand(-1, n_heads, -1, -1).clone()
    for head, window in windows.items():
        hidden = seen & ~visible_keys(seen, window.window, window.sinks)
        masks[:, head] = masks[:, head].masked_fill(hidden, False if boolean else torch.finfo(mask.dtype).min)
    setattr(masks, SEEN, seen)
    return masks
