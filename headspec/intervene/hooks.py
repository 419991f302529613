"""The hook bodies: what removes heads at `hook_z` and narrows their view at `hook_attn_scores`.

TransformerLens calls them as `hook(activation, hook=hook_point)`; they return a new tensor. Those of compressed heads
remember the text that is being read; the others keep no state.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from headspec.intervene.compress import Columns, CompressedHeads
from headspec.intervene.masks import HIDDEN, seen_keys, visible_keys
from headspec.plan.treatments import Window

Hook = Callable[..., Tensor]
Z = Float[Tensor, "batch query head d_head"]
Scores = Float[Tensor, "batch head query key"]


def filling(fills: Mapping[int, np.ndarray]) -> Hook:
    """A hook for `hook_z` that puts a constant, `[d_head]`, in the place of each head's z."""
    heads, vectors = list(fills), torch.from_numpy(np.stack(list(fills.values())))

    def fill(z: Z, hook: Any = None) -> Z:
        filled = z.clone()
        filled[:, :, heads] = vectors.to(z)
        return filled

    return fill


def windowing(windows: Mapping[int, Window]) -> Hook:
    """A hook for `hook_attn_scores` that hides the keys outside each head's window and sinks.

    Hidden keys get nearly the smallest finite score, not −∞: a row of padding, of which everything is masked, must
    not become NaN. Which tokens are real and where a query stands is read off the masked scores, so this is right with
    any KV cache and with padding. A key that a hook of yours masks for all heads counts as no token.
    """
    same: dict[Window, list[int]] = {}
    for head, window in windows.items():
        same.setdefault(window, []).append(head)

    def narrow(scores: Scores, hook: Any = None) -> Scores:
        seen, lowest = seen_keys(scores), torch.finfo(scores.dtype).min
        narrowed = scores.clone()
        for window, heads in same.items():
            hidden = seen & ~visible_keys(seen, window.window, window.sinks)
            narrowed[:, heads] = scores[:, heads].masked_fill(hidden[:, None], HIDDEN * lowest)
        return narrowed

    return narrow


def compressing(compressed: CompressedHeads) -> dict[str, Hook]:
    """Hooks, by the name of their place in the attention, that hide from compressed heads what these have dropped.

    Queries and keys are caught before rotation, with the sines and cosines that will rotate them.
    """
    caught: dict[str, Tensor] = {}

    def catching(name: str) -> Hook:
        def catch(found: Tensor, hook: Any = None) -> Tensor:
            caught[name] = found.detach()
            return found

        return catch

    def columns() -> Columns:
        queries, keys, values = (
            rearrange(caught[name][:, :, compressed.heads], "batch token head d -> batch head token d")
            for name in ("hook_q", "hook_k", "hook_v")
        )
        return Columns.rotated(queries, keys, values, caught["hook_cos"], caught["hook_sin"])

    def narrow(scores: Scores, hook: Any = None) -> Scores:
        seen, lowest = seen_keys(scores), torch.finfo(scores.dtype).min
        dropped = compressed.drops(columns, seen)
        caught.clear()
        if dropped is None:
            return scores
        narrowed = scores.clone()
        narrowed[:, compressed.heads] = scores[:, compressed.heads].masked_fill(
            dropped & seen[:, None], HIDDEN * lowest
        )
        return narrowed

    places = ("hook_q", "hook_k", "hook_v", "hook_cos", "hook_sin")
    return {**{name: catching(name) for name in places}, "hook_attn_scores": narrow}
