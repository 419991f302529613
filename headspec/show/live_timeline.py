"""Heads over time, to point at: what each was taken for while text was generated, and the bytes that were held.

Draws a LiveRecord; computes nothing. Needs no torch.
"""

import html

from plotly.graph_objects import Bar, Figure, Heatmap, Scatter
from plotly.subplots import make_subplots

from headspec import show
from headspec.heads import HeadRole
from headspec.record_html import ROLE_MEANINGS
from headspec.runtime.record import LiveRecord
from headspec.show.hover import faint
from headspec.show.live_segments import (
    FULL_COLOR,
    FULL_NAME,
    HELD_COLOR,
    HELD_NAME,
    X_TITLE,
    Segment,
    bytes_words,
    layer_edges,
    roles_in,
    row_names,
    segments,
    title_lines,
    treated,
    unit_of,
    why_nothing,
    x_range,
)
from headspec.show.style import (
    FAINT_INK,
    GRID,
    INK,
    MOST_ROW_NAMES,
    ROLE_COLORS,
    ROLE_INK,
    plotly_layout,
)
from headspec.show.twin import TwinFigure, with_twin

ROW_HEIGHT, MOST_ROWS_HEIGHT, BYTES_HEIGHT, BETWEEN = 20, 1400, 150, 34
"""Pixels."""


def timeline(record: LiveRecord) -> TwinFigure:
    """The role of every head over time as colour, its treatment in words, and below the bytes of the KV cache."""
    heads, stretches = record.heads(), segments(record)
    few = len(heads) <= MOST_ROW_NAMES
    row_height = ROW_HEIGHT if few else max(1, MOST_ROWS_HEIGHT // len(heads))
    height = max(len(heads), 3) * row_height
    total = height + BETWEEN + BYTES_HEIGHT
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=BETWEEN / total, row_heights=[height, BYTES_HEIGHT],
    )  # fmt: skip
    traces = [(_bars if few else _cells)(role, stretches, record) for role in roles_in(stretches)]
    if flips := [stretch for stretch in stretches if stretch.before is not None]:
        traces.append(_flip_trace(flips, row_height))
    if not stretches:
        traces.append(Scatter(x=[sum(x_range(record)) / 2], y=[0], mode="text", text=[why_nothing(record)],
                              hoverinfo="skip", showlegend=False))  # fmt: skip
    for trace in traces:
        figure.add_trace(trace, row=1, col=1)
    for trace in _bytes_traces(record):
        figure.add_trace(trace, row=2, col=1)
    _lay_out(figure, record, total)
    return with_twin(figure, lambda: show.draw_timeline(record))


def _bars(role: HeadRole, stretches: list[Segment], record: LiveRecord) -> Bar:
    """The stretches of one role, a bar each, with its treatment where there is room."""
    mine = [stretch for stretch in stretches if stretch.role is role]
    return Bar(
        name=_legend(role, record), orientation="h", width=0.86, y=[stretch.row for stretch in mine],
        base=[stretch.start for stretch in mine], x=[stretch.end - stretch.start for stretch in mine],
        text=[stretch.treatment for stretch in mine], textposition="inside", insidetextanchor="middle", textangle=0,
        textfont={"color": ROLE_INK[role], "size": 10}, marker={"color": ROLE_COLORS[role], "line": {"width": 0}},
        customdata=[_words(stretch) for stretch in mine], hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip


def _cells(role: HeadRole, stretches: list[Segment], record: LiveRecord) -> Heatmap:
    """The same as one picture, as so many bars would lie over each other."""
    edges = sorted({edge for stretch in stretches for edge in (stretch.start, stretch.end)})
    columns = {edge: column for column, edge in enumerate(edges)}
    n_rows, n_columns = len(record.heads()), len(edges) - 1
    shown: list[list[float | None]] = [[None] * n_columns for _ in range(n_rows)]
    words = [[""] * n_columns for _ in range(n_rows)]
    for stretch in stretches:
        if stretch.role is role:
            for column in range(columns[stretch.start], columns[stretch.end]):
                shown[stretch.row][column], words[stretch.row][column] = 1.0, _words(stretch)
    return Heatmap(
        name=_legend(role, record), x=edges, y=[row - 0.5 for row in range(n_rows + 1)], z=shown, customdata=words,
        hovertemplate="%{customdata}<extra></extra>", hoverongaps=False, showscale=False, showlegend=True,
        colorscale=[[0, ROLE_COLORS[role]], [1, ROLE_COLORS[role]]],
    )  # fmt: skip


def _legend(role: HeadRole, record: LiveRecord) -> str:
    return f"{role} ({record.counts()[role]} in the end)"


def _flip_trace(flips: list[Segment], row_height: int) -> Scatter:
    return Scatter(
        name=f"change of role ({len(flips)})", mode="markers", x=[flip.start for flip in flips],
        y=[flip.row for flip in flips], customdata=[_words(flip) for flip in flips],
        hovertemplate="%{customdata}<extra></extra>",
        marker={"symbol": "diamond", "size": min(8, max(3, row_height // 2 + 1)), "color": INK,
                "line": {"width": 1 if row_height >= ROW_HEIGHT else 0, "color": "#FFFFFF"}},
    )  # fmt: skip


def _words(stretch: Segment) -> str:
    window = f", window of {stretch.window} keys" if stretch.window else ""
    lines = [
        f"<b>{stretch.head}</b> {stretch.role}{window}",
        faint(ROLE_MEANINGS[stretch.role]),
        f"treatment: {html.escape(stretch.treatment, quote=False)} {faint(html.escape(treated(stretch), quote=False))}",
        f"from token {stretch.start} to {stretch.end}",
    ]
    return "<br>".join([*lines, *([f"before: {stretch.before}"] if stretch.before else [])])


def _bytes_traces(record: LiveRecord) -> list[Scatter]:
    size, _ = unit_of(max(moment.full_bytes for moment in record.held))
    places = [moment.at for moment in record.held]
    words = [
        f"{moment.at} tokens read: {bytes_words(moment.kv_bytes)} held, {bytes_words(moment.full_bytes)} "
        f"for all keys of all heads<br>{faint('of all buffers of the KV cache, full or not, all rows together')}"
        for moment in record.held
    ]
    shared = {"x": places, "customdata": words, "hovertemplate": "%{customdata}<extra></extra>", "legend": "legend2"}
    return [
        Scatter(name=FULL_NAME, y=[moment.full_bytes / size for moment in record.held], mode="lines",
                line={"color": FULL_COLOR, "dash": "dash", "width": 1.5}, **shared),
        Scatter(name=HELD_NAME, y=[moment.kv_bytes / size for moment in record.held], mode="lines+markers",
                line={"color": HELD_COLOR, "width": 2}, marker={"size": 4}, fill="tozeroy",
                fillcolor="rgba(51, 34, 136, 0.12)", **shared),
    ]  # fmt: skip


def _lay_out(figure: Figure, record: LiveRecord, total: int) -> None:
    headline, *lines = (html.escape(line, quote=False) for line in title_lines(record))
    title = f"<b>{headline}</b>" + "".join(f"<br><span style='font-size:12px'>{line}</span>" for line in lines)
    figure.update_layout(plotly_layout([title], total))
    figure.update_layout(
        barmode="overlay", hovermode="closest", margin_t=figure.layout.margin.t + 26, margin_l=70,
        height=figure.layout.height + 26, uniformtext={"mode": "hide", "minsize": 8},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        legend2={"orientation": "h", "x": 1, "xanchor": "right", "y": figure.layout.yaxis2.domain[1],
                 "yanchor": "bottom"},
    )  # fmt: skip
    heads = record.heads()
    names = row_names(heads)
    figure.update_yaxes(tickvals=list(names), ticktext=list(names.values()), range=[max(len(heads), 1) - 0.5, -0.5],
                        tickfont={"size": 10}, row=1, col=1)  # fmt: skip
    for edge in layer_edges(heads):
        figure.add_hline(edge, line={"color": "#FFFFFF", "width": 2 if len(heads) <= MOST_ROW_NAMES else 0.8},
                         row=1, col=1)  # fmt: skip
    unit = unit_of(max(moment.full_bytes for moment in record.held))[1]
    figure.update_yaxes(title_text=f"KV cache, {unit}", rangemode="tozero", showgrid=True, gridcolor=GRID, row=2, col=1)
    figure.update_xaxes(range=x_range(record))
    figure.update_xaxes(title_text=X_TITLE, row=2, col=1)
    figure.add_vline(record.n_prompt, line={"color": INK, "width": 1, "dash": "dot"})
    figure.add_annotation(
        text=f"end of the prompt: {record.n_prompt}", x=record.n_prompt, xanchor="left", y=0, yanchor="top",
        xref="x2", yref="y domain", showarrow=False, font={"size": 11, "color": FAINT_INK}, yshift=-2,
    )  # fmt: skip
