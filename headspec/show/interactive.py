"""Every head as a cell one can point at: its role and why, its numbers and what they mean. Drawn with plotly.

Draws records; computes nothing. Needs no torch. `headspec.show.page` writes the figures as pages of their own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from plotly.graph_objects import Figure, Heatmap

from headspec import show
from headspec.classify.head_map import HeadMap, HeadVerdict
from headspec.errors import RecordError
from headspec.heads import HeadId, HeadRole
from headspec.probe.about import ProbeAbout
from headspec.probe.catalogue import STATISTICS
from headspec.probe.profile import HeadProfile
from headspec.show.hover import (
    caution_words,
    faint,
    head_words,
    measured,
    number_words,
    statistic_template,
    statistic_title,
    titled,
    verdict_words,
)
from headspec.show.style import (
    MARKS_NOTE,
    ROLE_COLORS,
    ROLE_INK,
    ROLE_ORDER,
    SEQUENTIAL,
    SORT_ABOVE,
    TRAIT_MARKS,
    head_order,
    plotly_layout,
)
from headspec.show.twin import TwinFigure, with_twin

MAIN_NUMBERS = ("normalized_entropy", "sink_attention_ratio", "previous_token_score", "induction_score",
                "output_spread", "repeat_deviation")  # fmt: skip


def roles(head_map: HeadMap, profile: HeadProfile | None = None) -> TwinFigure:
    """Every head coloured by its role; pointing at one tells why. A click on a role in the legend hides it.

    With a profile the numbers are the profile's; without, those that the map keeps as evidence.
    """
    if profile:
        profile.about.check_model(head_map.about.model, head_map.about.n_layers, head_map.about.n_heads)
    few = len(head_map) <= SORT_ABOVE
    title = titled("What every head does", head_map.about, faint(MARKS_NOTE) if few else "")
    figure = Figure([_role_trace(role, head_map, profile) for role in ROLE_ORDER])
    _lay_out(figure, head_map.about, [title], by_role=True)
    above = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}
    figure.update_layout(legend=above, margin_t=figure.layout.margin.t + 20)
    return with_twin(figure, lambda: show.head_roles(profile, head_map))


def _role_trace(role: HeadRole, head_map: HeadMap, profile: HeadProfile | None) -> Heatmap:
    """The cells of one role; those of the other roles stay empty."""
    rows = [[head_map[head] for head in row] for row in _drawn_heads(head_map.about, head_map)]
    few = len(head_map) <= SORT_ABOVE
    numbers = "<br>".join(statistic_template(name, f"%{{customdata[{i}]}}") for i, name in enumerate(MAIN_NUMBERS, 1))
    return Heatmap(
        name=f"{role} ({head_map.counts()[role]})",
        z=[[1.0 if verdict.role == role else None for verdict in row] for row in rows],
        y=[str(layer) for layer in head_map.about.layers],
        customdata=[[_words(verdict, profile) if verdict.role == role else [] for verdict in row] for row in rows],
        text=[[_marks(verdict) if verdict.role == role else "" for verdict in row] for row in rows] if few else None,
        texttemplate="%{text}" if few else None,
        textfont_color=ROLE_INK[role],
        hovertemplate=f"%{{customdata[0]}}<br>{numbers}<extra></extra>",
        hoverongaps=False,
        colorscale=[[0, ROLE_COLORS[role]], [1, ROLE_COLORS[role]]],
        showscale=False, showlegend=True, **_gaps(few),
    )  # fmt: skip


def _words(verdict: HeadVerdict, profile: HeadProfile | None) -> list[str]:
    numbers = profile.head(verdict.head) if profile else dict(verdict.evidence)
    return [verdict_words(verdict), *(number_words(numbers.get(name, np.nan)) for name in MAIN_NUMBERS)]


def _marks(verdict: HeadVerdict) -> str:
    traits = "".join(TRAIT_MARKS.get(trait, "") for trait in verdict.traits)
    return "<br>".join(part for part in (str(verdict.window or ""), traits) if part)


def statistic(profile: HeadProfile, name: str | None = None, head_map: HeadMap | None = None) -> TwinFigure:
    """One number of every head as colour; without a name, a menu to choose among all that were measured."""
    names = measured(profile.grids)
    if name is not None and np.isnan(profile[name]).all():
        raise RecordError(f"{name} was not measured for {profile.about.model}: choose one of {', '.join(names)}.")
    about = head_map.about if head_map else profile.about
    profile.about.check_model(about.model, about.n_layers, about.n_heads)
    names = [name] if name else names
    drawn = _drawn_heads(about, head_map)
    views = {each: _view(profile, each, drawn) for each in names}
    few = len(drawn) * about.n_heads <= SORT_ABOVE
    figure = Figure(
        Heatmap(
            **views[names[0]],
            y=[str(layer) for layer in about.layers],
            customdata=[[head_words(head, head_map) for head in row] for row in drawn],
            texttemplate="%{text}" if few else None,
            colorscale=SEQUENTIAL, zmin=0, colorbar_title_side="right", **_gaps(few),
        )
    )  # fmt: skip
    titles = {each: statistic_title(each, about) for each in names}
    buttons = [
        {"label": STATISTICS[each].label, "method": "update",
         "args": [{key.replace("_", "."): [value] for key, value in views[each].items()}, {"title.text": titles[each]}]}
        for each in names
    ]  # fmt: skip
    _lay_out(figure, about, list(titles.values()), by_role=head_map is not None, buttons=[] if name else buttons)
    return with_twin(figure, lambda: show.statistic_heatmap(profile, names[0], head_map))


def _view(profile: HeadProfile, name: str, drawn: list[list[HeadId]]) -> dict[str, Any]:
    """What changes in the heat map when another statistic is chosen."""
    grid = profile[name]
    values = [[float(grid[profile.about.cell(head)]) for head in row] for row in drawn]
    lines = "%{customdata}", statistic_template(name, "%{text}"), caution_words(name)
    return {
        "z": values,
        "text": [[number_words(value) for value in row] for row in values],
        "zmax": float(np.nanmax(grid)),
        "hovertemplate": "<br>".join(line for line in lines if line) + "<extra></extra>",
        "colorbar_title_text": STATISTICS[name].unit,
    }


def _drawn_heads(about: ProbeAbout, head_map: HeadMap | None) -> list[list[HeadId]]:
    """The heads of each layer as they stand in the figure: by index, or by role when there are many."""
    if head_map is None:
        return [[HeadId(layer, head) for head in range(about.n_heads)] for layer in about.layers]
    order = head_order(head_map)
    return [[HeadId(layer, int(head)) for head in row] for layer, row in zip(about.layers, order, strict=True)]


def _gaps(few: bool) -> dict[str, float]:
    width = 2.0 if few else 0.5
    return {"xgap": width, "ygap": width}


def _lay_out(
    figure: Figure, about: ProbeAbout, titles: list[str], by_role: bool, buttons: Sequence[dict[str, Any]] = ()
) -> None:
    n_layers = len(about.layers)
    figure.update_layout(**plotly_layout(titles, max(460, 22 * n_layers), buttons))
    figure.update_yaxes(type="category", autorange="reversed", title_text="layer", dtick=max(1, n_layers // 32))
    if n_layers * about.n_heads <= SORT_ABOVE:
        figure.update_xaxes(title_text="head", dtick=1)
    elif by_role:
        figure.update_xaxes(title_text="heads (sorted by role within each layer)", showticklabels=False, ticks="")
    else:
        figure.update_xaxes(title_text="head")
