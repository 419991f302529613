"""The patterns of all heads on a few tokens, small enough for a page: what lies below the diagonal, a byte a number."""

import base64
from typing import Any

import numpy as np

from headspec.classify.head_map import HeadMap
from headspec.probe.sample import PatternSample

MOST_TOKENS = 64
"""Of a longer sample the first tokens are shown."""
STEPS = 255
"""Square roots of the weights are rounded to so many steps: weak attention keeps its shade, and every weight is right
within .004."""


def patterns(sample: PatternSample | None, head_map: HeadMap) -> dict[str, Any] | None:
    """Tokens and quantised patterns. `places[i]` is where head i of the map stands in `bytes`, -1 if it does not."""
    if sample is None:
        return None
    n_tokens = min(len(sample.tokens), MOST_TOKENS)
    places = [
        sample.layers.index(verdict.head.layer) * sample.n_heads + verdict.head.head
        if verdict.head.layer in sample.layers else -1
        for verdict in head_map
    ]  # fmt: skip
    quantised = quantise(sample.patterns[..., :n_tokens, :n_tokens])
    return {
        "tokens": [str(token) for token in sample.tokens[:n_tokens]],
        "places": places,
        "bytes": base64.b64encode(quantised.tobytes()).decode("ascii"),
    }


def quantise(shares: np.ndarray) -> np.ndarray:
    """`[…, query, key]` in [0, 1] to `[…, pair]` in 0 … 255: pairs of query and visible key, query by query."""
    queries, keys = np.tril_indices(shares.shape[-1])
    visible = np.nan_to_num(shares[..., queries, keys].astype(np.float32))
    return np.rint(STEPS * np.sqrt(np.clip(visible, 0, 1))).astype(np.uint8)
