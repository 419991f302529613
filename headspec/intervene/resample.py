"""Resampling ablation: a head's z is replaced by its z at a random place of another text (Chan et al. 2022).

A control, for hooked models only: the head keeps writing likely vectors, so what is lost is what they say about *this*
text. It needs activations of a text, so it cannot be exported and is no treatment of a plan.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from headspec.errors import ModelError
from headspec.heads import HeadId
from headspec.intervene.hooks import Hook, Z
from headspec.load.text import as_windows
from headspec.plan.make import about_of


@contextmanager
def resample_heads(model: Any, heads: Iterable[HeadId | str], tokens: Any, seed: int = 0) -> Iterator[Any]:
    """Replace the z of each head by draws from its z on `tokens`, inside the `with` block only.

    Args:
        model: A TransformerBridge.
        heads: The heads, as `L3H7`.
        tokens: Text, token ids or TokenWindows to draw from; another text than the one that will be read.
        seed: Draws the places. Every call of the model goes on in the same random sequence.
    """
    if not hasattr(model, "hooks"):
        raise ModelError(f"{type(model).__name__} has no hooks: resampling needs load_model(name).")
    wanted = sorted({HeadId.parse(head) for head in heads})
    about_of(model).check_heads(wanted)
    banks = _banks(model, wanted, as_windows(tokens, model).tokens)
    generator = torch.Generator().manual_seed(seed)
    layers = sorted({head.layer for head in wanted})
    hooks = [
        (f"blocks.{layer}.attn.hook_z", _drawing({h.head: banks[h] for h in wanted if h.layer == layer}, generator))
        for layer in layers
    ]
    with model.hooks(fwd_hooks=hooks):
        yield model


def _drawing(banks: dict[int, Float[Tensor, "place d_head"]], generator: torch.Generator) -> Hook:
    def draw(z: Z, hook: Any = None) -> Z:
        drawn = z.clone()
        for head, bank in banks.items():
            places = torch.randint(len(bank), z.shape[:2], generator=generator)
            drawn[:, :, head] = bank[places].to(z)
        return drawn

    return draw


def _banks(
    model: Any, heads: list[HeadId], tokens: Int[Tensor, "window token"]
) -> dict[HeadId, Float[Tensor, "place d_head"]]:
    """z of every head at every place of a text, as it is now (whatever else is hooked)."""
    kept: dict[HeadId, list[Tensor]] = {head: [] for head in heads}

    def keep(layer: int) -> Any:
        def hook(z: Z, hook: Any = None) -> None:
            for head in heads:
                if head.layer == layer:
                    kept[head].append(z[:, :, head.head].detach().cpu())

        return hook

    hooks = [(f"blocks.{layer}.attn.hook_z", keep(layer)) for layer in sorted({head.layer for head in heads})]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        for window in tokens.split(1):
            model(window.to(next(model.original_model.parameters()).device), return_type=None)
    return {head: rearrange(torch.cat(parts), "window token d -> (window token) d") for head, parts in kept.items()}
