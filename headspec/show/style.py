"""One look for every figure: colours, names and the order of heads. No figure is made here."""

import numpy as np

from headspec.classify.head_map import HeadMap
from headspec.heads import HeadRole
from headspec.probe.about import ProbeAbout

ROLE_COLORS = {HeadRole.POSITIONAL: "#4477AA", HeadRole.GATHERING: "#CCBB44", HeadRole.DEAD: "#BBBBBB"}
"""Paul Tol's bright set, which readers with any colour blindness can tell apart."""
ROLE_ORDER = tuple(ROLE_COLORS)
ROLE_INK = {HeadRole.POSITIONAL: "#FFFFFF", HeadRole.GATHERING: "#222222", HeadRole.DEAD: "#222222"}
SEQUENTIAL = "viridis"
MOST_ROW_NAMES = 64
"""With one row a head, more names than this overlap."""
SORT_ABOVE = 200
"""From this many heads on, index order looks like confetti: heads are sorted by role within each layer."""


def caption(about: ProbeAbout) -> str:
    """What stands under every title: which model, which text, which window length."""
    weights = "\nRANDOM WEIGHTS: timing and tests only" if about.random_weights else ""
    text = about.text if len(about.text) <= 40 else f"…{about.text[-39:]}"
    return f"{about.model} · {about.n_windows} × {about.window} tokens of {text}{weights}"


def head_order(head_map: HeadMap) -> np.ndarray:
    """`[layer, place]`: which head stands where; by index, or by role within the layer when there are many."""
    shape = (len(head_map.about.layers), head_map.about.n_heads)
    index = np.tile(np.arange(shape[1]), (shape[0], 1))
    if len(head_map) <= SORT_ABOVE:
        return index
    roles = role_grid(head_map)
    return np.argsort(roles, axis=1, kind="stable")


def role_grid(head_map: HeadMap) -> np.ndarray:
    """`[layer, head]`: the place of each head's role in `ROLE_ORDER`."""
    flat = [ROLE_ORDER.index(verdict.role) for verdict in head_map]
    return np.array(flat).reshape(len(head_map.about.layers), head_map.about.n_heads)
