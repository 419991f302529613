"""The parts of the interactive figure of a sweep: single heads as a heat map, groups as curves, plans as points.

Each knows what changes in it when another measure is chosen. Drawn with plotly; computes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from plotly.graph_objects import Heatmap, Scatter

from headspec.classify.head_map import HeadMap
from headspec.heads import HeadId
from headspec.show.hover import escaped, head_words
from headspec.show.style import FAINT_INK, LINE_COLORS, SORT_ABOVE
from headspec.show.sweep_hover import SweepHover
from headspec.show.sweep_parts import (
    COLOR_DECADES,
    CONTROL,
    Choice,
    Row,
    SweepParts,
    is_sorted,
    kind_words,
    ordered_heads,
    scale_of,
)

ROW_PIXELS, LEAST_PIXELS, MOST_PIXELS, PANEL_PIXELS = 26, 200, 720, 280
"""Height of a layer in the heat map, of the heat map, and of the other parts."""
RANDOM_MARK = {"symbol": "x-thin", "size": 7, "line": {"width": 1.5}}


@dataclass(frozen=True)
class Panel:
    """One part of the figure."""

    title: str
    height: int
    traces: list[Any]
    views: dict[str, list[dict[str, Any]]]
    """By measure: what it changes in each trace."""
    x_title: str = ""
    x_share: bool = False
    x_ticks: tuple[int, ...] = ()
    """Of a logarithmic x axis; a linear one if there are none."""
    clipped: frozenset[str] = frozenset()
    """Measures with values below the axis."""
    is_grid: bool = False
    """Whether layers are its y axis, so that a measure is shown as colour."""


def single_heads(parts: SweepParts, choices: Sequence[Choice], head_map: HeadMap | None) -> Panel:
    """A heat map a treatment, of which the first is visible."""
    heads = ordered_heads(parts, head_map)
    grids = [[[rows.get(head) for head in layer] for layer in heads] for rows in parts.singles.values()]
    views = {choice.name: [_cells(parts, choice, grid) for grid in grids] for choice in choices}
    hover, few = SweepHover(parts.rows), parts.shape[0] * parts.shape[1] <= SORT_ABOVE
    traces = [
        Heatmap(
            name=treatment, visible=place == 0, coloraxis="coloraxis", **views[choices[0].name][place],
            customdata=[[hover.words(row, _name(head, head_map)) if row else []
                         for head, row in zip(*layer, strict=True)] for layer in zip(heads, grid, strict=True)],
            hovertemplate=hover.template, hoverongaps=False, xgap=2 if few else 0.5, ygap=2 if few else 0.5,
            texttemplate="%{text}" if few else None,
        )
        for place, (treatment, grid) in enumerate(zip(parts.singles, grids, strict=True))
    ]  # fmt: skip
    height = min(max(LEAST_PIXELS, ROW_PIXELS * parts.shape[0]), MOST_PIXELS)
    x_title = "head" if not is_sorted(parts, head_map) else "heads (sorted by role within each layer)"
    return Panel("one head at a time", height, traces, views, x_title, is_grid=True)


def _name(head: HeadId, head_map: HeadMap | None) -> str:
    """With its role, if that is known."""
    known = head_map is not None and head.layer in head_map.about.layers
    return head_words(head, head_map if known else None)


def _cells(parts: SweepParts, choice: Choice, grid: list[list[Row | None]]) -> dict[str, Any]:
    """What a measure changes in a heat map; a logarithmic one is drawn as powers of ten."""
    scale = scale_of(choice, parts.single_rows, COLOR_DECADES)
    values = [[row.get(choice.name) if row else None for row in layer] for layer in grid]
    z = np.array([[scale.place(value) for value in layer] for layer in values])
    return {
        "z": np.round(np.log10(z) if choice.log else z, 4),
        "y": [str(layer) for layer in range(len(grid))],
        "text": [["" if value is None else f"{value:.2g}" for value in layer] for layer in values],
    }


def growing_groups(parts: SweepParts, choices: Sequence[Choice], head_map: HeadMap | None) -> Panel:
    """A line a ranking and treatment; its random controls as crosses of the same colour."""
    groups, looks = [], []
    for place, (name, rows) in enumerate(parts.curves.items()):
        color = LINE_COLORS[place % len(LINE_COLORS)]
        groups.append(rows)
        looks.append({"name": escaped(name), "mode": "lines+markers", "line": {"color": color, "width": 1.5}})
        if name in parts.random:
            groups.append(parts.random[name])
            marker = {**RANDOM_MARK, "color": color, "line": {"width": 1.5, "color": color}}
            looks.append({"name": f"{escaped(name)}: random heads", "mode": "markers", "marker": marker})
    return _points(parts, choices, "more and more heads together", "heads treated", "n_heads", groups, looks)


def whole_plans(parts: SweepParts, choices: Sequence[Choice], head_map: HeadMap | None) -> Panel:
    """A point a plan, over the bytes it leaves."""
    looks: list[dict[str, Any]] = []
    for place, kind in enumerate(parts.plans):
        color = LINE_COLORS[place % len(LINE_COLORS)]
        marker = {"color": FAINT_INK, **RANDOM_MARK} if kind == CONTROL else {"color": color, "size": 9}
        looks.append({"name": escaped(kind_words(kind)), "mode": "markers", "marker": marker})
    x_title = "KV bytes left at the model's context, share of the original's"
    return _points(parts, choices, "plans", x_title, "kv_share", list(parts.plans.values()), looks)


def _points(
    parts: SweepParts, choices: Sequence[Choice], title: str, x_title: str, x: str, groups: list[list[Row]],
    looks: list[dict[str, Any]],
) -> Panel:  # fmt: skip
    hover = SweepHover(parts.rows)
    drawn = [row for rows in groups for row in rows]
    views = {
        choice.name: [{"y": [scale_of(choice, drawn).place(row.get(choice.name)) for row in rows]} for rows in groups]
        for choice in choices
    }
    traces = [
        Scatter(
            x=[row[x] for row in rows], **views[choices[0].name][place], **look,
            customdata=[hover.words(row, f"<b>{escaped(str(row['case']))}</b>") for row in rows],
            hovertemplate=hover.template,
        )
        for place, (rows, look) in enumerate(zip(groups, looks, strict=True))
    ]  # fmt: skip
    sizes = tuple(sorted({row[x] for row in drawn})) if x == "n_heads" else ()
    return Panel(title, PANEL_PIXELS, traces, views, x_title, x_share=x == "kv_share",
                 x_ticks=sizes if min(sizes, default=0) > 0 else (),
                 clipped=frozenset(choice.name for choice in choices if scale_of(choice, drawn).clips(
                     row.get(choice.name) for row in drawn)))  # fmt: skip
