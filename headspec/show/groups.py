"""Heads in groups: how each role changes as the context grows, and which heads resemble each other. Drawn with plotly.

Draws records; computes nothing. Needs no torch.
"""

from typing import Any

from plotly.graph_objects import Figure, Scatter

from headspec import show
from headspec.classify.clusters import HeadClusters
from headspec.classify.head_map import HeadMap
from headspec.classify.summary import RoleCurve, role_curves
from headspec.heads import HeadRole
from headspec.probe.catalogue import STATISTICS
from headspec.probe.profile import HeadProfile
from headspec.show.hover import (
    TITLE_WIDTH,
    bin_names,
    escaped,
    faint,
    measured,
    number_words,
    statistic_title,
    titled,
    verdict_words,
)
from headspec.show.style import (
    FAINT_INK,
    GRID,
    LINE_COLORS,
    MOST_ROW_NAMES,
    ROLE_COLORS,
    ROLE_ORDER,
    ROLE_SYMBOLS,
    plotly_layout,
)
from headspec.show.twin import TwinFigure, with_twin

LEGEND_WIDTH = 44
"""Characters a line of a cluster's description in the legend."""


def by_position(profile: HeadProfile, head_map: HeadMap) -> TwinFigure:
    """How the statistics change as the context grows: median and middle half of the heads of each role."""
    profile.about.check_model(head_map.about.model, head_map.about.n_layers, head_map.about.n_heads)
    names = measured(profile.by_position)
    curves = {name: role_curves(profile, head_map, name) for name in names}
    traces = {name: [t for curve in curves[name] for t in _curve(profile, curve, name)] for name in names}
    titles = {name: statistic_title(name, profile.about, "as the context grows") for name in names}
    buttons = [
        {"label": STATISTICS[name].label, "method": "update", "args": [
            {key: [trace[key] for trace in traces[name]] for key in ("y", "text")},
            {"title.text": titles[name], "yaxis.title.text": STATISTICS[name].unit}]}
        for name in names
    ]  # fmt: skip
    figure = Figure([Scatter(**trace) for trace in traces[names[0]]])
    figure.update_layout(**plotly_layout(list(titles.values()), 460, buttons))
    ticks = [2**k for k in range(32) if 2**k < profile.about.window]
    figure.update_xaxes(type="log", tickvals=ticks, title_text="position of the query (log2; shaded: not in averages)")
    figure.update_yaxes(title_text=STATISTICS[names[0]].unit, rangemode="tozero", showgrid=True, gridcolor=GRID)
    if profile.about.first_query > 1:
        figure.add_vrect(x0=1, x1=profile.about.first_query, fillcolor=FAINT_INK, opacity=0.1, line_width=0)
    return with_twin(figure, lambda: show.temporal_evolution(profile, head_map))


def _curve(profile: HeadProfile, curve: RoleCurve, name: str) -> list[dict[str, Any]]:
    """The band and the median of one role, from the first position on that a log axis can show."""
    shown = profile.position_edges >= 1
    starts = profile.position_edges[shown]
    unit, meaning = STATISTICS[name].unit, faint(escaped(STATISTICS[name].meaning))
    lower, median, upper = (values[shown].tolist() for values in (curve.lower, curve.median, curve.upper))
    words = [
        f"<b>{curve.role}</b>, {curve.n_heads} heads, queries {where}<br>median {number_words(middle)} ({unit}), "
        f"middle half {number_words(low)} to {number_words(high)}<br>{meaning}"
        for where, low, middle, high in zip(bin_names(starts, profile.about.window), lower, median, upper, strict=True)
    ]
    color, label = ROLE_COLORS[curve.role], f"{curve.role} ({curve.n_heads})"
    band = {"x": [*starts, *starts[::-1]], "y": [*upper, *lower[::-1]], "text": None, "fill": "toself",
            "fillcolor": color, "opacity": 0.3, "mode": "none", "hoverinfo": "skip", "showlegend": False}  # fmt: skip
    line = {"x": starts, "y": median, "text": words, "name": label, "mode": "lines+markers", "line_color": color,
            "hovertemplate": "%{text}<extra></extra>"}  # fmt: skip
    return [each | {"legendgroup": label} for each in (band, line)]


def clusters(clusters: HeadClusters, head_map: HeadMap) -> TwinFigure:
    """Heads as points, near each other where their statistics are alike: a colour a cluster, a shape a role.

    The legend counts how many heads of each role a cluster has; a click on one hides them.
    """
    about = clusters.about
    about.check_model(head_map.about.model, head_map.about.n_layers, head_map.about.n_heads)
    groups = [(cluster, role) for cluster in range(len(clusters.descriptions)) for role in ROLE_ORDER]
    figure = Figure([_points(clusters, head_map, cluster, role) for cluster, role in groups])
    tried = " · ".join(f"{number}: {silhouette:.2f}" for number, silhouette in clusters.silhouettes)
    lines = escaped(clusters.sentence, TITLE_WIDTH), faint(f"silhouette by number of clusters: {tried}")
    figure.update_layout(
        **plotly_layout([titled("Heads that resemble each other, found without cut-offs", about, *lines)], 640),
        legend={"groupclick": "toggleitem", "tracegroupgap": 4, "font_size": 11, "grouptitlefont_size": 11},
    )
    axis = {"showgrid": True, "gridcolor": GRID, "showticklabels": False, "ticks": ""}
    first, second = (f"{share:.0%} of the variance" for share in clusters.explained)
    figure.update_xaxes(title_text=f"first principal component ({first})", **axis)
    figure.update_yaxes(title_text=f"second principal component ({second})", **axis)
    compared = clusters.contingency is not None  # else the static figure lacks a panel's numbers
    return with_twin(figure, lambda: show.head_clusters(clusters, head_map)) if compared else TwinFigure(figure)


def _points(clusters: HeadClusters, head_map: HeadMap, cluster: int, role: HeadRole) -> Scatter:
    """The heads of one role in one cluster; empty where there are none, and then not in the legend."""
    places = zip(clusters.about.heads(), clusters.assignment, clusters.coordinates, strict=True)
    mine = [(head_map[head], place) for head, own, place in places if own == cluster and head_map[head].role == role]
    name, words = f"cluster {cluster}", escaped(clusters.descriptions[cluster])
    return Scatter(
        x=[place[0] for _, place in mine],
        y=[place[1] for _, place in mine],
        text=[str(verdict.head) for verdict, _ in mine],
        customdata=[f"{verdict_words(verdict)}<br><b>{name}</b> {faint(words)}" for verdict, _ in mine],
        hovertemplate="%{customdata}<extra></extra>",
        mode="markers+text" if len(head_map) <= MOST_ROW_NAMES else "markers",
        textposition="top center", textfont_size=9,
        marker={"color": LINE_COLORS[cluster % len(LINE_COLORS)], "symbol": ROLE_SYMBOLS[role], "size": 10,
                "line": {"color": "#FFFFFF", "width": 1}},
        name=f"{role} ({len(mine)})", legendgroup=name, showlegend=bool(mine),
        legendgrouptitle_text=f"<b>{name}</b><br>{escaped(clusters.descriptions[cluster], LEGEND_WIDTH)}",
    )  # fmt: skip
