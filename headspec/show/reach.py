"""How far back heads look: attention by relative offset, of all heads or of a few. Drawn with plotly.

Draws records; computes nothing. Needs no torch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from plotly.graph_objects import Figure, Heatmap

from headspec import show
from headspec.classify.head_map import HeadMap
from headspec.classify.summary import grouped_offsets
from headspec.errors import HeadspecError
from headspec.heads import HeadId, HeadRole
from headspec.probe.profile import HeadProfile
from headspec.show.hover import (
    bin_names,
    faint,
    head_words,
    number_words,
    role_key,
    titled,
)
from headspec.show.style import (
    FAINTEST,
    GRID,
    LINE_COLORS,
    MOST_ROW_NAMES,
    ROLE_COLORS,
    ROLE_ORDER,
    SEQUENTIAL,
    grouped_rows,
    plotly_layout,
)
from headspec.show.twin import TwinFigure, with_twin

SHARE = "a share of 1: mean over the queries; few queries see far back, so far keys get little"
"""What the numbers are, for whom points at one."""


def offsets(
    profile: HeadProfile, heads: HeadId | str | Sequence[HeadId | str] | None = None, head_map: HeadMap | None = None
) -> TwinFigure:
    """Attention by relative offset: of every head as a heat map, or of a few heads as lines.

    All heads are rows of one picture, grouped by role where a head map is given: a menu of 1,024 heads could not be
    searched, and would show one head at a time.
    """
    if head_map:
        profile.about.check_model(head_map.about.model, head_map.about.n_layers, head_map.about.n_heads)
    if heads is None:
        return with_twin(_all_offsets(profile, head_map), lambda: show.position_preference(profile, head_map))
    chosen = [HeadId.parse(head) for head in ([heads] if isinstance(heads, HeadId | str) else heads)]
    if not 1 <= len(chosen) <= len(LINE_COLORS):
        raise HeadspecError(f"{len(chosen)} heads for one figure: name 1 to {len(LINE_COLORS)}, or none to see all.")
    return with_twin(_few_offsets(profile, chosen, head_map), lambda: show.head_offsets(profile, chosen, head_map))


def _few_offsets(profile: HeadProfile, heads: list[HeadId], head_map: HeadMap | None) -> Figure:
    """One line a head. Wide bins are divided by their width, so that they compare with single offsets."""
    width = np.diff([*profile.offset_edges, profile.about.window])
    names = bin_names(profile.offset_edges, profile.about.window)
    figure = Figure()
    for head, color in zip(heads, LINE_COLORS, strict=False):
        share = profile.offset_mass[profile.about.cell(head)]
        label = head_words(head, head_map)
        words = [
            f"{label}<br>{number_words(value)} of its attention goes {name} tokens back"
            + (f",<br>{number_words(value / size)} to each offset" if size > 1 else "")
            + f"<br>{faint(SHARE)}"
            for value, name, size in zip(share.tolist(), names, width.tolist(), strict=True)
        ]
        line = {"shape": "hv", "color": color, "width": 1.5}
        figure.add_scatter(x=profile.offset_edges + 1, y=share / width, text=words, name=label, line=line,
                           mode="lines+markers", marker_size=4, hovertemplate="%{text}<extra></extra>")  # fmt: skip
    note = "A previous-token head is a peak at 1. A head that looks everywhere falls slowly: few queries see far back."
    title = titled("Where a head looks, by relative offset", profile.about, faint(note))
    lowest = [float(np.log10(FAINTEST / 10)), 0.1]
    scales = {"logarithmic scale": {"yaxis.type": "log", "yaxis.range": lowest},
              "linear scale": {"yaxis.type": "linear", "yaxis.autorange": True}}  # fmt: skip
    buttons = [{"label": label, "method": "relayout", "args": [scale]} for label, scale in scales.items()]
    figure.update_layout(**plotly_layout([title], 460, buttons), showlegend=True)
    ticks = [0, *(2**k for k in range(32) if 2**k < profile.about.window)]
    figure.update_xaxes(
        type="log", tickvals=[tick + 1 for tick in ticks], ticktext=[str(tick) for tick in ticks],
        title_text="relative offset of the key, in tokens (0 is the query's own; log scale)",
    )  # fmt: skip
    figure.update_yaxes(
        type="log", range=lowest, showgrid=True, gridcolor=GRID, exponentformat="none",
        title_text="share of attention per offset (bins from 64 on ÷ their width)",
    )  # fmt: skip
    return figure


def _all_offsets(profile: HeadProfile, head_map: HeadMap | None) -> Figure:
    rows = grouped_rows(profile, head_map)
    grouped, names = grouped_offsets(profile)
    share = np.stack([grouped[profile.about.cell(head)] for head in rows])
    figure = Figure(
        Heatmap(
            z=np.log10(np.maximum(share, FAINTEST)),
            x=names,
            customdata=[[head_words(head, head_map)] * len(names) for head in rows],
            text=[[number_words(value) for value in row] for row in share.tolist()],
            hovertemplate=f"%{{customdata}}<br>%{{text}} of its attention goes %{{x}} tokens back<br>{faint(SHARE)}"
            "<extra></extra>",
            colorscale=SEQUENTIAL, zmin=-3, zmax=0,
            colorbar={"tickvals": [-3, -2, -1, 0], "ticktext": ["≤ 0.001", "0.01", "0.1", "1"],
                      "title": {"text": "share of attention (log)", "side": "right"}},
        )
    )  # fmt: skip
    key = f"{role_key(head_map)} &nbsp; " if head_map else ""
    title = titled("Where each head looks, by relative offset", profile.about, key + faint("drag a box to zoom in"))
    figure.update_layout(**plotly_layout([title], max(440, min(16 * len(rows), 800))))
    figure.update_xaxes(type="category", tickangle=-45,
                        title_text="relative offset of the key, in tokens (from 8 on several a column)")  # fmt: skip
    figure.update_yaxes(autorange="reversed", ticklabelstandoff=12, ticks="", **_row_names(rows, head_map))
    if head_map:
        _role_bands(figure, rows, head_map)
    return figure


def _row_names(rows: list[HeadId], head_map: HeadMap | None) -> dict[str, Any]:
    """Every head by name, or, where names would overlap, the roles, or else nothing but what pointing tells."""
    if len(rows) <= MOST_ROW_NAMES:
        return {"tickvals": list(range(len(rows))), "ticktext": [str(head) for head in rows]}
    if head_map is None:
        return {"showticklabels": False, "title_text": f"{len(rows)} heads, layer by layer"}
    places = _places(rows, head_map)
    middles = [float(np.mean(place)) for place in places.values()]
    return {"tickvals": middles, "ticktext": [str(role) for role in places], "tickangle": -90}


def _places(rows: list[HeadId], head_map: HeadMap) -> dict[HeadRole, list[int]]:
    """The rows of each role that occurs."""
    places = {role: [i for i, head in enumerate(rows) if head_map[head].role == role] for role in ROLE_ORDER}
    return {role: place for role, place in places.items() if place}


def _role_bands(figure: Figure, rows: list[HeadId], head_map: HeadMap) -> None:
    """A strip of the role's colour between the names and the heat map."""
    for role, place in _places(rows, head_map).items():
        figure.add_shape(type="rect", xref="paper", xsizemode="pixel", xanchor=0, x0=-11, x1=-3,
                         y0=place[0] - 0.5, y1=place[-1] + 0.5, fillcolor=ROLE_COLORS[role], line_width=0)  # fmt: skip
