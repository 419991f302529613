"""The hook bodies: what removes heads at `hook_z` and narrows their view at `hook_attn_scores`.

TransformerLens calls them as `hook(activation, hook=hook_point)`; they return a new tensor and keep no state.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

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
