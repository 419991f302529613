"""The PNGs of a benchmark's speed: a panel for every cell, a bar for every system, words beside. Computes nothing."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from headspec.show.benchmark_frame import framed, literal, style_axes
from headspec.show.benchmark_look import STANDING_COLORS
from headspec.show.benchmark_panels import MEANINGS, Panel, roofline_panels, speed_panels, standings, widths
from headspec.show.benchmark_rows import BASELINE, CERTIFIED, CONTROL, HYPOTHETICAL, PEER, REFERENCE, Numbers
from headspec.show.benchmark_words import rate_words, short
from headspec.show.style import FAINT_INK, INK

PALENESS = {CERTIFIED: "FF", REFERENCE: "B0", BASELINE: "80", PEER: "60"}
"""Opacity of a bar's face; other standings are hollow."""
CHARACTER_POINTS, GAP_POINTS = 4.9, 9
"""Width of a bold character of the words beside the bars, and between their columns."""


def speed(numbers: Numbers) -> Figure:
    """TTFT and TPOT of every system."""
    return _figure(numbers, speed_panels(numbers), "How fast: time to first token (TTFT) and per output token (TPOT)")


def roofline(numbers: Numbers) -> Figure:
    """The share of the machine's limit that every system reaches while it decodes."""
    return _figure(numbers, roofline_panels(numbers), "How near to the machine's limit", rate_words(numbers))


def _figure(numbers: Numbers, panels: Sequence[Panel], *titles: str) -> Figure:
    columns = 1 if len(panels) <= 2 else 2
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(len(panel.bars) for panel in row) for row in rows]
    size = (9.5 * columns, 1.3 + sum(0.9 + 0.26 * height for height in heights))
    figure, end = framed(numbers, size, *titles, legend=True)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=[height + 2 for height in heights])
    for place, axes in enumerate(grid.flat):
        if place < len(panels):
            _draw_panel(axes, panels[place], widths(panels))
        else:
            axes.set_axis_off()
    keys = [Patch(**_face(standing), label=MEANINGS.get(standing, standing)) for standing in standings(panels)]
    figure.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, end), ncols=len(keys), frameon=False,
                  fontsize=8 if columns > 1 else 6)  # fmt: skip
    return figure


def _draw_panel(axes: Axes, panel: Panel, columns: Sequence[int]) -> None:
    style_axes(axes)
    for row, bar in enumerate(panel.bars):
        axes.barh(row, bar.length, height=0.68, **_face(bar.entrant.standing))
        if bar.whisker is not None:
            axes.plot([bar.length, bar.whisker], [row, row], color=INK, lw=1, marker="|", ms=5, markevery=[1])
    axes.set_yticks(range(len(panel.bars)), [literal(short(bar.entrant.shown)) for bar in panel.bars], fontsize=9)
    axes.set_ylim(len(panel.bars) - 0.4, -0.6)
    for text, bar in zip(axes.get_yticklabels(), panel.bars, strict=True):
        text.set(color=INK, fontweight=_weight(bar.entrant.standing))
    axes.set_xlim(0, panel.end)
    if panel.limit is not None:
        axes.axvline(panel.limit, color=INK, lw=1, ls=":")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlabel(panel.axis, fontsize=8, color=FAINT_INK)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    _write_columns(axes, panel, columns)


def _write_columns(axes: Axes, panel: Panel, columns: Sequence[int]) -> None:
    """The words beside the bars, each column flush right."""
    right = 0.0
    common: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 8}
    for number, header in enumerate(panel.columns):
        right += GAP_POINTS + CHARACTER_POINTS * columns[number]
        axes.annotate(header, (1, 1), xycoords="axes fraction", xytext=(right, 4), color=FAINT_INK, **common)
        for row, bar in enumerate(panel.bars):
            axes.annotate(bar.beside[number], (1, row), xycoords=axes.get_yaxis_transform(), xytext=(right, 0),
                          va="center", color=INK, fontweight=_weight(bar.entrant.standing), **common)  # fmt: skip


def _weight(standing: str) -> str:
    return "bold" if standing == CERTIFIED else "normal"


def _face(standing: str) -> dict[str, Any]:
    """How a bar looks."""
    color = STANDING_COLORS.get(standing, FAINT_INK)
    hollow = standing in (HYPOTHETICAL, CONTROL)
    return {"facecolor": "#FFFFFF" if hollow else color + PALENESS.get(standing, "80"), "edgecolor": color, "lw": 1,
            "ls": "--" if standing == CONTROL else "-"}  # fmt: skip
