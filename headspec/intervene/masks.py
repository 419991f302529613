"""Which keys a windowed head sees: the last `window` ones and the first `sinks` real tokens of its row.

Shapes only: no model, no hooks.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def visible_keys(
    n_queries: int, n_keys: int, window: int, sinks: int, first_key: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch query key"]:
    """Keys inside the window or among the sinks; what causality and padding hide is not considered here.

    The queries are the last of the keys, as they are with a KV cache. `first_key` is the place of each row's first
    real token: left padding moves the sinks.

    >>> visible_keys(1, 6, window=2, sinks=1, first_key=torch.tensor([0, 1])).int().tolist()
    [[[1, 0, 0, 0, 1, 1]], [[1, 1, 0, 0, 1, 1]]]
    """
    keys = torch.arange(n_keys, device=first_key.device)
    queries = torch.arange(n_keys - n_queries, n_keys, device=first_key.device)
    near = queries[:, None] - keys < window
    sink = keys - first_key[:, None] < sinks
    return near | sink[:, None]


def first_real_key(scores: Float[Tensor, "batch head query key"]) -> Int[Tensor, " batch"]:
    """The first key that the last query of each row may see, by its masked scores: 0, or after left padding.

    One head that sees it is enough, so heads that another plan has windowed already do no harm while one is left.
    """
    seen = (scores[:, :, -1] > torch.finfo(scores.dtype).min / 2).any(dim=1)
    return seen.int().argmax(dim=-1)
