"""Which keys a windowed head sees: the last `window` ones and the first `sinks` real tokens of its row.

Shapes only: no model, no hooks.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Seen = Bool[Tensor, "batch query key"]
MASKED = 0.94
"""Scores below this part of the smallest finite number are causality's or padding's."""
HIDDEN = 0.875
"""What a window hides gets this part of it: no attention either, and a window around it can tell it from padding."""


def seen_keys(scores: Float[Tensor, "batch head query key"]) -> Seen:
    """The real keys up to each query, by its masked scores; also those that another window has hidden."""
    return (scores > MASKED * torch.finfo(scores.dtype).min).any(dim=1)


def visible_keys(seen: Seen, window: int, sinks: int) -> Seen:
    """Of the keys `seen`, those inside the window and the sinks.

    A query's own key is the last it sees, so a cache may be longer than what was read; sinks are counted in real
    tokens, so padding on the left moves them.

    >>> seen = torch.tensor([[[1, 1, 1, 1, 1, 1]], [[0, 1, 1, 1, 1, 0]]]).bool()
    >>> visible_keys(seen, window=2, sinks=1).int().tolist()
    [[[1, 0, 0, 0, 1, 1]], [[0, 1, 0, 1, 1, 0]]]
    """
    keys = torch.arange(seen.shape[-1], device=seen.device)
    own = keys.max() - seen.flip(-1).int().argmax(-1)
    near = own[..., None] - keys < window
    real = seen.any(dim=1)
    sink = real & (real.cumsum(-1) <= sinks)
    return seen & (near | sink[:, None])
