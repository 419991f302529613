"""A benchmark's quality to point at, drawn with plotly. Draws; computes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plotly.graph_objects import Figure, Scatter

from headspec.errors import HeadspecError
from headspec.measure.report import MEASURES, BenchmarkReport
from headspec.show.benchmark_curves import (
    BYTES_TITLE,
    KL_TITLE,
    TIME_TITLE,
    Curve,
    Spot,
    bottom_words,
    bytes_curves,
    has_quality,
    least_drawn,
    reach,
    time_curves,
    time_place,
)
from headspec.show.benchmark_rows import CERTIFIED, QUALITY, Numbers
from headspec.show.benchmark_words import page_title, percent, short, with_interval
from headspec.show.hover import escaped, faint
from headspec.show.style import GRID, plotly_layout
from headspec.show.twin import TwinFigure, with_twin

NUMBERS = {
    "kl": "KL",
    "perplexity": "perplexity",
    "top1_agreement": "top-1 agreement",
    "induction_accuracy": "induction accuracy",
    "needle_accuracy": "needles found",
}
"""What a point says; `MEASURES` has what each means."""


@dataclass(frozen=True)
class View:
    """One choice of the menu."""

    name: str
    title: str
    axis: str
    ticks: str
    """How numbers on the axis are written, in plotly's words."""
    curves: list[Curve]


def quality_figure(report: BenchmarkReport) -> TwinFigure:
    """KL of every system over its KV bytes; a menu puts the time per output token in their place.

    Raises:
        HeadspecError: No quality in the report, or random weights.
    """
    numbers = Numbers(report)
    if not has_quality(numbers):
        raise HeadspecError("no quality to draw in this report: it needs rows of KL and trained weights. Run it on.")
    views = _views(numbers)
    figure = Figure([
        _trace(numbers, curve, least_drawn(view.curves), view is views[0]) for view in views for curve in view.curves
    ])  # fmt: skip
    buttons = [_button(view, views) for view in views] if len(views) > 1 else []
    figure.update_layout(plotly_layout([view.title for view in views], 520, buttons), showlegend=True)
    figure.update_xaxes(title_text=views[0].axis, tickformat=views[0].ticks, rangemode="tozero", showgrid=True,
                        gridcolor=GRID)  # fmt: skip
    figure.update_yaxes(title_text=KL_TITLE, type="log", dtick=1, exponentformat="power", showgrid=True,
                        gridcolor=GRID)  # fmt: skip
    return with_twin(figure, lambda: _static(numbers))


def _static(numbers: Numbers) -> Any:
    from headspec.show.benchmark_quality import quality_vs_bytes

    return quality_vs_bytes(numbers)


def _views(numbers: Numbers) -> list[View]:
    curves = bytes_curves(numbers)
    found = [View("by bytes", _title(numbers, "What holding fewer KV bytes costs", curves), BYTES_TITLE, ".0%", curves)]
    place = time_place(numbers)
    if place is not None:
        curves = time_curves(numbers, place)
        title = _title(numbers, f"What being faster costs: {place.words}", curves)
        found.append(View("by time", title, TIME_TITLE, "", curves))
    return found


def _title(numbers: Numbers, headline: str, curves: Sequence[Curve]) -> str:
    return page_title(numbers, headline, escaped(bottom_words(curves, least_drawn(curves))))


def _button(view: View, views: Sequence[View]) -> dict[str, object]:
    visible = [each is view for each in views for _ in each.curves]
    layout = {"title.text": view.title, "xaxis.title.text": view.axis, "xaxis.tickformat": view.ticks}
    return {"label": view.name, "method": "update", "args": [{"visible": visible}, layout]}


def _trace(numbers: Numbers, curve: Curve, least: float, visible: bool) -> Scatter:
    look, places = curve.look, [reach(spot, least) for spot in curve.spots]
    name = escaped(short(curve.label))
    return Scatter(
        name=f"<b>{name}</b>" if curve.standing == CERTIFIED else name, visible=visible,
        x=[spot.x for spot in curve.spots], y=[value for value, _, _ in places],
        mode="lines+markers" if len(places) > 1 and look.width else "markers",
        line={"color": look.color, "dash": look.dash, "width": look.width},
        marker={"symbol": look.mark, "size": look.size + 3, "color": look.color if look.filled else "#FFFFFF",
                "line": {"color": look.color, "width": 1.5 if look.mark != "x" else 0}},
        error_y={"type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": look.color,
                 "array": [high - value for value, _, high in places],
                 "arrayminus": [value - low for value, low, _ in places]},
        text=[_words(numbers, spot) for spot in curve.spots], hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _words(numbers: Numbers, spot: Spot) -> str:
    name = spot.entrant.name
    lines = [f"<b>{escaped(spot.entrant.shown)}</b>", faint(escaped(spot.entrant.label))]
    share = numbers.value(QUALITY, name, "kv_share")
    lines += [] if share is None else [f"KV bytes {percent(share)} of the full cache's"]
    found = {measure: numbers.at(QUALITY, name, measure) for measure in NUMBERS} | {"kl": spot.kl}
    lines += [
        f"{NUMBERS[measure]} {with_interval(number)} {faint(escaped(_meaning(measure)))}"
        for measure, number in found.items() if number is not None
    ]  # fmt: skip
    return "<br>".join(line for line in lines if line)


def _meaning(measure: str) -> str:
    unit, meaning = MEASURES[measure]
    return f"{meaning}, {unit}" if unit == "nats/token" else meaning
