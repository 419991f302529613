"""One look for every figure: colours, names and the order of heads. No figure is made here."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headspec.classify.head_map import HeadMap
from headspec.classify.map_html import TRAIT_MARKS
from headspec.heads import HeadId, HeadRole
from headspec.probe.about import ProbeAbout
from headspec.probe.profile import HeadProfile
from headspec.record_html import RANDOM_WEIGHTS, ROLE_COLORS, ROLE_INK

__all__ = ["ROLE_COLORS", "ROLE_INK", "TRAIT_MARKS"]  # passed on; all else is defined here

ROLE_ORDER = tuple(ROLE_COLORS)
MARKS_NOTE = "number: window in keys · p previous-token · i induction · s sink-resting · c near-constant"
LINE_COLORS = ("#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#999933", "#44AA99", "#AA4499", "#DDCC77")
"""Paul Tol's muted set, for single heads and for clusters: none of them is the colour of a role."""
ROLE_SYMBOLS = {HeadRole.POSITIONAL: "circle", HeadRole.GATHERING: "square", HeadRole.DEAD: "x"}
"""Shapes of the roles where colour says something else, in plotly's words."""
NO_CLOUD = {"showSendToCloud": False, "plotlyServerURL": ""}
"""Without this, plotly 7 shows a button that sends the figure to its makers' cloud."""
CONFIG = {"displaylogo": False, "responsive": True, **NO_CLOUD}
"""Give plotly a copy: it takes entries out of what it is given."""
"""How plotly's script behaves, on pages and in notebooks."""
SEQUENTIAL = "viridis"
FAINTEST = 1e-4
"""Share of attention below which logarithmic colours and lines would show nothing but rounding."""
MOST_ROW_NAMES = 64
"""With one row a head, more names than this overlap."""
SORT_ABOVE = 200
"""From this many heads on, index order looks like confetti: heads are sorted by role within each layer."""
INK, FAINT_INK, GRID = "#222222", "#666666", "#E8E8E8"
FONT = "DejaVu Sans, Verdana, Arial, sans-serif"
"""The font of the PNGs, or what comes closest; nothing is fetched."""
_AXIS = {"showgrid": False, "zeroline": False, "ticks": "outside", "ticklen": 4, "tickcolor": GRID,
         "title": {"standoff": 8}}  # fmt: skip
PLOTLY_TEMPLATE: dict[str, Any] = {
    "layout": {
        "font": {"family": FONT, "size": 12, "color": INK},
        "title": {"x": 0.0, "xanchor": "left", "xref": "paper", "y": 1.0, "yref": "container", "yanchor": "top",
                  "pad": {"t": 14}, "font": {"size": 15}},
        "paper_bgcolor": "#FFFFFF",
        "plot_bgcolor": "#FFFFFF",
        "hoverlabel": {"align": "left", "bgcolor": "#FFFFFF", "bordercolor": FAINT_INK,
                       "font": {"family": FONT, "size": 12, "color": INK}},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
}  # fmt: skip
"""The look of the PNGs for plotly: the same font, white ground, no frame."""


def caption(about: ProbeAbout) -> str:
    """What stands under every title: which model, which text, which window length."""
    weights = f"\n{RANDOM_WEIGHTS}" if about.random_weights else ""
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


def grouped_rows(profile: HeadProfile, head_map: HeadMap | None) -> list[HeadId]:
    """Every head, those of one role together where roles are known."""
    if head_map is None:
        return profile.about.heads()
    verdicts = sorted(head_map, key=lambda each: (ROLE_ORDER.index(each.role), each.window or 0, each.head))
    return [verdict.head for verdict in verdicts]


def role_grid(head_map: HeadMap) -> np.ndarray:
    """`[layer, head]`: the place of each head's role in `ROLE_ORDER`."""
    flat = [ROLE_ORDER.index(verdict.role) for verdict in head_map]
    return np.array(flat).reshape(len(head_map.about.layers), head_map.about.n_heads)


def plotly_layout(titles: Sequence[str], plot_height: int, buttons: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Layout of a plotly figure: the first title, with room for the longest, and a dropdown between title and plot."""
    top = 40 + 17 * max(title.count("<br>") for title in titles) + (44 if buttons else 0)
    menu = {"buttons": list(buttons), "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 8}}
    return {
        "template": PLOTLY_TEMPLATE,
        "title": {"text": titles[0]},
        "height": plot_height + top + 80,
        "margin": {"t": top, "b": 80, "l": 60, "r": 20},
        "updatemenus": [menu] if buttons else [],
    }
