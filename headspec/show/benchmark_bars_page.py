"""A benchmark's speed to point at, drawn with plotly: a panel for every cell. Draws; computes nothing."""

from collections.abc import Iterator, Sequence
from typing import Any

from plotly.graph_objects import Bar as PlotlyBar
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from headspec.errors import HeadspecError
from headspec.measure.report import BenchmarkReport
from headspec.show.benchmark_look import STANDING_COLORS
from headspec.show.benchmark_panels import MEANINGS, Bar, Panel, roofline_panels, speed_panels, standings, widths
from headspec.show.benchmark_rows import CERTIFIED, CONTROL, HYPOTHETICAL, Numbers
from headspec.show.benchmark_words import page_title, rate_words, short
from headspec.show.hover import escaped, faint
from headspec.show.style import FAINT_INK, GRID, INK, plotly_layout
from headspec.show.twin import TwinFigure, with_twin

BAR_PIXELS, PANEL_PIXELS = 26, 96
"""Height of a bar, and of what every panel needs besides."""
CHARACTER_PIXELS, GAP_PIXELS = 7, 18
"""Width of a character of the words beside the bars, and between their columns."""


def speed_figure(report: BenchmarkReport) -> TwinFigure:
    """TTFT and TPOT of every system, a panel for every prompt, batch and context.

    Raises:
        HeadspecError: No times in the report.
    """
    numbers = Numbers(report)
    headline = "How fast: time to first token (TTFT) and per output token (TPOT)"
    return with_twin(_figure(numbers, speed_panels(numbers), headline), lambda: _static("speed", numbers))


def roofline_figure(report: BenchmarkReport) -> TwinFigure:
    """The share of the machine's limit that every system reaches while it decodes.

    Raises:
        HeadspecError: Nothing was decoded in the report.
    """
    numbers = Numbers(report)
    headline = "How near to the machine's limit"
    return with_twin(_figure(numbers, roofline_panels(numbers), headline, rate_words(numbers)),
                     lambda: _static("roofline", numbers))  # fmt: skip


def _static(name: str, numbers: Numbers) -> Any:
    from headspec.show import benchmark_bars

    return getattr(benchmark_bars, name)(numbers)


def _figure(numbers: Numbers, panels: Sequence[Panel], headline: str, *lines: str) -> Figure:
    if not panels:
        raise HeadspecError("no times to draw in this report: it needs a cell that was timed. Run it on.")
    title = page_title(numbers, headline, *map(escaped, lines), _key(panels))
    heights = [BAR_PIXELS * len(panel.bars) for panel in panels]
    height, gaps = sum(heights) + PANEL_PIXELS * (len(panels) - 1), len(panels) - 1
    figure = make_subplots(
        len(panels), 1, row_heights=heights, vertical_spacing=PANEL_PIXELS / height if gaps else 0
    )  # fmt: skip
    columns = [GAP_PIXELS + CHARACTER_PIXELS * width for width in widths(panels)]
    words = [words for row, panel in enumerate(panels, 1) for words in _annotations(panel, row, columns)]
    for row, panel in enumerate(panels, 1):
        _add_panel(figure, panel, row)
    layout = plotly_layout([title], height)
    margin = {**layout["margin"], "t": layout["margin"]["t"] + 36, "l": 20, "r": 20 + sum(columns)}
    figure.update_layout(layout | {"margin": margin, "height": height + margin["t"] + margin["b"]},
                         annotations=words, showlegend=False)  # fmt: skip
    return figure


def _key(panels: Sequence[Panel]) -> str:
    """A legend in one line."""
    parts = [
        f"<span style='color:{STANDING_COLORS.get(standing, FAINT_INK)}'>"
        f"{'□' if standing in (HYPOTHETICAL, CONTROL) else '■'}</span> {MEANINGS.get(standing, escaped(standing))}"
        for standing in standings(panels)
    ]
    return " &nbsp; ".join(parts)


def _add_panel(figure: Figure, panel: Panel, row: int) -> None:
    rows = list(range(len(panel.bars)))
    whiskers = [0 if bar.whisker is None else max(bar.whisker - bar.length, 0) for bar in panel.bars]
    error = {"type": "data", "symmetric": False, "array": whiskers, "arrayminus": [0] * len(rows), "thickness": 1,
             "width": 3, "color": INK}  # fmt: skip
    bars = PlotlyBar(
        orientation="h", y=rows, x=[bar.length for bar in panel.bars], width=0.68, marker=_faces(panel.bars),
        error_x=error if any(whiskers) else None, hovertext=[_words(bar) for bar in panel.bars],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    figure.add_trace(bars, row=row, col=1)
    names = [_bold(bar, escaped(short(bar.entrant.shown))) for bar in panel.bars]
    figure.update_yaxes(tickvals=rows, ticktext=names, range=[len(rows) - 0.5, -0.5], ticks="", automargin=True,
                        row=row, col=1)  # fmt: skip
    title = {"text": panel.axis, "font": {"size": 11, "color": FAINT_INK}}
    figure.update_xaxes(range=[0, panel.end], tickformat=".0%" if panel.limit else "", showgrid=True, gridcolor=GRID,
                        title=title, row=row, col=1)  # fmt: skip
    if panel.limit is not None:
        figure.add_vline(panel.limit, line={"color": INK, "width": 1, "dash": "dot"}, row=row, col=1)


def _annotations(panel: Panel, row: int, columns: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Title and column heads above the bars, and the words beside them."""
    axis, right = "" if row == 1 else str(row), 0
    above: dict[str, Any] = {"xref": f"x{axis} domain", "yref": f"y{axis} domain", "y": 1, "yanchor": "bottom",
                             "showarrow": False}  # fmt: skip
    yield {"text": f"<b>{escaped(panel.title)}</b>", "x": 0, "xanchor": "left", **above}
    for number, header in enumerate(panel.columns):
        right += columns[number]
        place: dict[str, Any] = {"x": 1, "xanchor": "right", "xshift": right, "font": {"size": 11}}
        yield {"text": faint(header), **above, **place}
        for y, bar in enumerate(panel.bars):
            yield {"text": _bold(bar, bar.beside[number]), "xref": f"x{axis} domain", "yref": f"y{axis}", "y": y,
                   "showarrow": False, **place}  # fmt: skip


def _bold(bar: Bar, words: str) -> str:
    return f"<b>{words}</b>" if bar.entrant.standing == CERTIFIED else words


def _faces(bars: Sequence[Bar]) -> dict[str, Any]:
    colors = [STANDING_COLORS.get(bar.entrant.standing, FAINT_INK) for bar in bars]
    hollow = [bar.entrant.standing in (HYPOTHETICAL, CONTROL) for bar in bars]
    opacity = [1.0 if bar.entrant.standing == CERTIFIED else 0.6 for bar in bars]
    filled = ["#FFFFFF" if empty else color for color, empty in zip(colors, hollow, strict=True)]
    return {"color": filled, "opacity": opacity, "line": {"color": colors, "width": 1}}


def _words(bar: Bar) -> str:
    return "<br>".join([f"<b>{escaped(bar.entrant.shown)}</b>", *(escaped(line) for line in bar.details)])
