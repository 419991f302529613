"""What each case of a sweep costs, to point at: heads one by one, growing groups, and plans. Drawn with plotly.

Draws a SweepTable; computes nothing. Needs no torch.
"""

import math
from collections.abc import Sequence
from typing import Any

from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from headspec import show
from headspec.classify.head_map import HeadMap
from headspec.plan.treatments import Treatment
from headspec.record_html import RANDOM_WEIGHTS
from headspec.search.table import MEASURES, SweepTable
from headspec.show.hover import TITLE_WIDTH, escaped, faint
from headspec.show.style import GRID, SEQUENTIAL, SORT_ABOVE, plotly_layout
from headspec.show.sweep_panels import Panel, growing_groups, single_heads, whole_plans
from headspec.show.sweep_parts import COLOR_DECADES, Choice, SweepParts, caption_words, scale_of, sweep_parts
from headspec.show.twin import TwinFigure, with_twin

BETWEEN = 100
"""Pixels from panel to panel."""
ABOVE, WITH_LEGEND, WITH_COLORS = 24, 260, 120
"""Pixels for the name of the first panel, and right of the panels."""


def sweep(table: SweepTable, treatment: str | Treatment | None = None, head_map: HeadMap | None = None) -> TwinFigure:
    """What every case costs: a cell a head treated alone, a line a ranking, a point a plan.

    Menus choose the measure, and the treatment of single heads. With a head map pointing at a head tells its role, and
    beyond 200 heads those of one role stand together.

    Args:
        table: From `headspec.sweep` or `SweepTable.load`.
        treatment: Show only what was treated so: `mean`, `window:8`.
        head_map: Of the same model.
    """
    parts = sweep_parts(table, treatment)
    if head_map:
        head_map.about.check_model(parts.model, *parts.shape)
    choices = parts.choices()
    drawers = ((parts.singles, single_heads), (parts.curves, growing_groups), (parts.plans, whole_plans))
    panels = [draw(parts, choices, head_map) for holds, draw in drawers if holds]
    total = sum(panel.height for panel in panels) + BETWEEN * (len(panels) - 1)
    figure = make_subplots(
        rows=len(panels), cols=1, row_heights=[panel.height for panel in panels],
        vertical_spacing=BETWEEN / total if len(panels) > 1 else 0,
    )  # fmt: skip
    for place, panel in enumerate(panels, 1):
        for trace in panel.traces:
            figure.add_trace(trace, row=place, col=1)
    _lay_out(figure, parts, panels, choices, total)
    return with_twin(figure, lambda: show.draw_sweep(table, treatment, head_map))


def _lay_out(figure: Figure, parts: SweepParts, panels: list[Panel], choices: Sequence[Choice], total: int) -> None:
    titles = [_title(parts, panels, choice) for choice in choices]
    measures = [_measure_button(parts, panels, choice) for choice in choices]
    figure.update_layout(plotly_layout(titles, total, measures))
    figure.update_layout(
        _measure_layout(parts, panels, choices[0]), margin_t=figure.layout.margin.t + ABOVE,
        margin_r=WITH_LEGEND if len(panels) > 1 or not panels[0].is_grid else WITH_COLORS,
        height=figure.layout.height + ABOVE,
    )  # fmt: skip
    menu = {**figure.layout.updatemenus[0].to_plotly_json(), "pad": {"b": 8 + ABOVE}}
    treatments = _treatment_buttons(parts)
    figure.layout.updatemenus = [menu, *([{**menu, "buttons": treatments, "x": 0.4}] if len(treatments) > 1 else [])]
    for place, panel in enumerate(panels, 1):
        _lay_out_panel(figure, parts, panel, place)


def _lay_out_panel(figure: Figure, parts: SweepParts, panel: Panel, place: int) -> None:
    axis = "" if place == 1 else str(place)
    top = figure.layout[f"yaxis{axis}"].domain[1]
    figure.add_annotation(text=f"<b>{panel.title}</b>", x=0, xref="paper", y=top, yref="paper", xanchor="left",
                          yanchor="bottom", yshift=4, showarrow=False)  # fmt: skip
    figure.update_xaxes(title_text=panel.x_title, row=place, col=1)
    if panel.is_grid:
        few = parts.shape[0] * parts.shape[1] <= SORT_ABOVE
        low, high = figure.layout[f"yaxis{axis}"].domain
        figure.update_layout(coloraxis={"colorscale": SEQUENTIAL, "colorbar": {
            "x": 1.01, "y": (low + high) / 2, "len": high - low, "lenmode": "fraction", "thickness": 16,
            "title": {"side": "right"}}})  # fmt: skip
        figure.update_yaxes(type="category", autorange="reversed", title_text="layer",
                            dtick=max(1, parts.shape[0] // 32), row=place, col=1)  # fmt: skip
        figure.update_xaxes(**({"dtick": 1} if few else {}), row=place, col=1)
        if "sorted" in panel.x_title:
            figure.update_xaxes(showticklabels=False, ticks="", row=place, col=1)
        return
    legend = f"legend{axis}"
    for trace in panel.traces:
        figure.update_traces(legend=legend, selector={"name": trace.name}, row=place, col=1)
    figure.update_layout({legend: {"x": 1.01, "xanchor": "left", "y": top, "yanchor": "top", "font": {"size": 11}}})
    figure.update_yaxes(showgrid=True, gridcolor=GRID, exponentformat="power", row=place, col=1)
    if panel.x_ticks:
        figure.update_xaxes(type="log", tickvals=panel.x_ticks, ticktext=[str(tick) for tick in panel.x_ticks],
                            row=place, col=1)  # fmt: skip
    if panel.x_share:
        figure.update_xaxes(tickformat=".0%", showgrid=True, gridcolor=GRID, row=place, col=1)


def _measure_button(parts: SweepParts, panels: list[Panel], choice: Choice) -> dict[str, Any]:
    """Choosing a measure changes colours, heights, axes and the title."""
    changes = [change for panel in panels for change in panel.views[choice.name]]
    traces = {key: [change.get(key) for change in changes] for key in ("z", "y", "text")}
    layout = {"title.text": _title(parts, panels, choice), **_measure_layout(parts, panels, choice)}
    return {"label": choice.name, "method": "update", "args": [traces, layout]}


def _measure_layout(parts: SweepParts, panels: list[Panel], choice: Choice) -> dict[str, Any]:
    """Colour bar and axes of a measure, in the flat words of plotly's `relayout`."""
    layout: dict[str, Any] = {}
    for place, panel in enumerate(panels, 1):
        axis = "yaxis" if place == 1 else f"yaxis{place}"
        if panel.is_grid:
            layout |= _color_axis(parts, choice)
        else:
            layout |= {f"{axis}.title.text": choice.axis.replace(", ", "<br>"), f"{axis}.autorange": True,
                       f"{axis}.type": "log" if choice.log else "linear",
                       f"{axis}.dtick": 1 if choice.log else None}  # fmt: skip
    return layout


def _color_axis(parts: SweepParts, choice: Choice) -> dict[str, Any]:
    """Bright is harm, for measures that harm lowers as for those that it raises."""
    scale = scale_of(choice, parts.single_rows, COLOR_DECADES)
    ticks = scale.ticks()
    drawn = [round(math.log10(tick), 4) if choice.log else tick for tick in ticks]
    words = [f"≤ {tick:g}" if choice.log and tick == ticks[0] else f"{tick:g}" for tick in ticks]
    return {
        "coloraxis.cmin": drawn[0], "coloraxis.cmax": drawn[-1], "coloraxis.reversescale": choice.low_is_harm,
        "coloraxis.colorbar.tickvals": drawn, "coloraxis.colorbar.ticktext": words,
        "coloraxis.colorbar.title.text": choice.axis.replace(", ", "<br>"),
    }  # fmt: skip


def _title(parts: SweepParts, panels: Sequence[Panel], choice: Choice) -> str:
    below = ("Less than an axis shows, or a gain, is drawn at its bottom." if choice.name in
             {name for panel in panels for name in panel.clipped} else "")  # fmt: skip
    words = f"{choice.name}: {MEASURES[choice.name]}. Effects of single heads do not add up. {below}"
    lines = [faint(escaped(words, TITLE_WIDTH)), *([RANDOM_WEIGHTS] if parts.model.startswith("random:") else []),
             escaped(caption_words(parts), TITLE_WIDTH)]  # fmt: skip
    small = "".join(f"<br><span style='font-size:12px'>{line}</span>" for line in lines)
    return f"<b>What treating heads of {escaped(parts.model)} costs</b>{small}"


def _treatment_buttons(parts: SweepParts) -> list[dict[str, Any]]:
    """Which treatment the heat map shows; its traces are the first of the figure."""
    places = list(range(len(parts.singles)))
    return [
        {"label": f"one head: {treatment}", "method": "restyle",
         "args": [{"visible": [place == chosen for place in places]}, places]}
        for chosen, treatment in enumerate(parts.singles)
    ]  # fmt: skip
