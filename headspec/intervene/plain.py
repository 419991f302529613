"""Carrying out a plan on a Hugging Face model as it is: no TransformerBridge, so sweeps and searches are faster.

Removed heads are filled in where z enters the output projection; windowed heads get a mask of their own.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from headspec.errors import ModelError
from headspec.intervene.hooks import filling
from headspec.intervene.masks import visible_keys
from headspec.load.layout import attention_layers
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Window


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
    """A pre-hook of the attention that replaces its mask by one a head, for whole sequences without padding."""

    def hook(module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        hidden = inputs[0] if inputs else keywords["hidden_states"]
        mask = keywords.get("attention_mask")
        if mask is not None or keywords.get("past_key_values") is not None or keywords.get("layer_past") is not None:
            raise ModelError(
                "windows on a plain model are for whole sequences without padding or KV cache: use load_model(name)."
            )
        return inputs, {**keywords, "attention_mask": head_masks(hidden.shape[1], windows, n_heads, hidden.device)}

    return hook


def head_masks(
    n_tokens: int, windows: dict[int, Window], n_heads: int, device: Any
) -> Bool[Tensor, "1 head query key"]:
    """What each head of a layer sees, True where it does: everything before it, or its window and sinks."""
    causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=device).tril()
    masks = causal.repeat(1, n_heads, 1, 1)
    first = torch.zeros(1, dtype=torch.int64, device=device)
    for head, window in windows.items():
        masks[0, head] &= visible_keys(n_tokens, n_tokens, window.window, window.sinks, first)[0]
    return masks
