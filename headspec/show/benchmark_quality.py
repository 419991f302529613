"""The PNGs of a benchmark's quality: what fewer bytes cost, and what being faster costs. Computes nothing."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from headspec.show.benchmark_curves import (
    BYTES_TITLE,
    KL_TITLE,
    TIME_TITLE,
    Curve,
    bottom_words,
    bytes_curves,
    least_drawn,
    reach,
    time_curves,
)
from headspec.show.benchmark_frame import framed, literal, style_axes
from headspec.show.benchmark_rows import CERTIFIED, REFERENCE, Numbers, Place
from headspec.show.benchmark_words import short
from headspec.show.style import FAINT_INK, GRID

MARKS = {"circle": "o", "square": "s", "triangle-up": "^", "triangle-down": "v", "diamond": "D", "pentagon": "p",
         "star": "*", "hexagon": "h", "cross": "P", "x": "x"}  # fmt: skip
DASHES = {"solid": "-", "dash": "--"}
SIZE = (9.5, 5.4)


def quality_vs_bytes(numbers: Numbers) -> Figure:
    """KL over the share of the KV bytes, a line for every method."""
    curves = bytes_curves(numbers)
    figure, _ = framed(numbers, SIZE, "What holding fewer KV bytes costs")
    axes = figure.add_subplot()
    _draw_curves(axes, curves)
    largest = max(spot.x for curve in curves for spot in curve.spots)
    axes.set(xlabel=BYTES_TITLE, xlim=(0, max(1.0, largest) * 1.04))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def quality_vs_time(numbers: Numbers, place: Place) -> Figure:
    """KL over the time per output token in one cell; lines show how fast the references are."""
    curves = time_curves(numbers, place)
    figure, _ = framed(numbers, SIZE, f"What being faster costs: {place.words}")
    axes = figure.add_subplot()
    _draw_curves(axes, curves)
    for spot in (spot for curve in curves if curve.standing == REFERENCE for spot in curve.spots):
        axes.axvline(spot.x, color=FAINT_INK, lw=0.8, ls=":", zorder=0)
        axes.annotate(literal(short(spot.entrant.name)), (spot.x, 1), xycoords=axes.get_xaxis_transform(),
                      xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8, color=FAINT_INK)  # fmt: skip
    axes.set(xlabel=TIME_TITLE)
    axes.set_xlim(left=0)
    return figure


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    least = least_drawn(curves)
    lines = [_draw_curve(axes, curve, least) for curve in curves]
    axes.set(ylabel=KL_TITLE, yscale="log")
    axes.set_ylim(bottom=least / 1.25)
    style_axes(axes)
    if words := bottom_words(curves, least):
        axes.axhline(least, color=GRID, lw=4, zorder=0)
        axes.annotate(words, (0, least), xycoords=axes.get_yaxis_transform(), xytext=(4, 4), fontsize=7,
                      textcoords="offset points", color=FAINT_INK)  # fmt: skip
    names = [literal(short(curve.label)) for curve in curves]
    legend = axes.legend(lines, names, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    for text, curve in zip(legend.get_texts(), curves, strict=True):
        text.set_fontweight("bold" if curve.standing == CERTIFIED else "normal")


def _draw_curve(axes: Axes, curve: Curve, least: float) -> Line2D:
    """The line, for a legend; without one for a single system."""
    look, places = curve.look, [reach(spot, least) for spot in curve.spots]
    below, above = ([abs(place[0] - place[end]) for place in places] for end in (1, 2))
    drawn = axes.errorbar(
        [spot.x for spot in curve.spots], [value for value, _, _ in places], yerr=(below, above), color=look.color,
        marker=MARKS[look.mark], ls=DASHES[look.dash], lw=look.width if len(places) > 1 else 0, ms=look.size,
        mfc=look.color if look.filled else "#FFFFFF", elinewidth=1, capsize=2,
        zorder=4 if curve.standing == CERTIFIED else 3,
    )  # fmt: skip
    line: Line2D = drawn[0]
    return line
