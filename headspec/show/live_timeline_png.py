"""Heads over time as PNG: what each was taken for while text was generated, and the bytes that were held.

Draws a LiveRecord; computes nothing. Needs no torch.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from headspec.runtime.record import LiveRecord
from headspec.show.live_segments import (
    FULL_COLOR,
    FULL_NAME,
    HELD_COLOR,
    HELD_NAME,
    X_TITLE,
    Segment,
    layer_edges,
    roles_in,
    row_names,
    segments,
    title_lines,
    unit_of,
    why_nothing,
    x_range,
)
from headspec.show.static import save_png
from headspec.show.style import FAINT_INK, GRID, INK, MOST_ROW_NAMES, ROLE_COLORS, ROLE_INK, ROLE_ORDER

WIDTH, BYTES_HEIGHT = 11.0, 1.7
"""Inches."""
LETTER = 0.06
"""Inches a letter of a treatment takes."""


def timeline_png(record: LiveRecord, path: Path | str) -> Path:
    """Write the role of every head over time as colour, its treatment in words, and below the bytes of the KV cache."""
    return save_png(draw_timeline(record), Path(path))


def draw_timeline(record: LiveRecord) -> Figure:
    """The figure of `timeline_png`."""
    heads, titles = record.heads(), title_lines(record)
    few = len(heads) <= MOST_ROW_NAMES
    height = max(0.17 * len(heads), 0.5) if few else min(max(7.0, len(heads) * 2 / 150), 14.0)
    figure = Figure(figsize=(WIDTH, height + BYTES_HEIGHT + 1.1 + 0.2 * len(titles)), layout="constrained")
    figure.suptitle("\n".join(titles), fontsize=10)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[height, BYTES_HEIGHT])
    _draw_heads(above, record, few)
    _draw_bytes(below, record)
    for axes in (above, below):
        axes.axvline(record.n_prompt, color=INK, lw=0.8, ls=":")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=FAINT_INK, labelsize=8 if axes is below else 7)
    above.tick_params(axis="x", labelbottom=False)
    below.annotate(
        f"end of the prompt: {record.n_prompt}", (record.n_prompt, 1), xycoords=("data", "axes fraction"),
        xytext=(3, 2), textcoords="offset points", fontsize=7, color=FAINT_INK,
    )  # fmt: skip
    figure.legend(handles=_handles(record), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _draw_heads(axes: Axes, record: LiveRecord, few: bool) -> None:
    heads, stretches = record.heads(), segments(record)
    half = 0.43 if few else 0.5
    for role in ROLE_ORDER:
        boxes = [_box(stretch, half) for stretch in stretches if stretch.role is role]
        axes.add_collection(PolyCollection(boxes, facecolors=ROLE_COLORS[role], linewidths=0, antialiased=False))
    first, last = x_range(record)
    axes.set(xlim=(first, last), ylim=(max(len(heads), 1) - 0.5, -0.5))
    names = row_names(heads)
    axes.set_yticks(list(names), list(names.values()))
    for edge in layer_edges(heads):
        axes.axhline(edge, color="#FFFFFF", lw=1.2 if few else 0.4)
    flips = [stretch for stretch in stretches if stretch.before is not None]
    axes.scatter([flip.start for flip in flips], [flip.row for flip in flips], s=16 if few else 3, marker="D",
                 color=INK, edgecolor="#FFFFFF", lw=0.6 if few else 0, zorder=3, clip_on=False)  # fmt: skip
    if not stretches:
        axes.text(0.5, 0.5, why_nothing(record), transform=axes.transAxes, ha="center", va="center", fontsize=9)
    for stretch in stretches if few else ():
        if (stretch.end - stretch.start) / (last - first) * (WIDTH - 1.2) > LETTER * len(stretch.treatment) + 0.1:
            axes.text((stretch.start + stretch.end) / 2, stretch.row, stretch.treatment, ha="center",
                      va="center_baseline", fontsize=6.5, color=ROLE_INK[stretch.role], clip_on=True)  # fmt: skip


def _box(stretch: Segment, half: float) -> list[tuple[float, float]]:
    top, bottom, first, last = stretch.row - half, stretch.row + half, float(stretch.start), float(stretch.end)
    return [(first, top), (last, top), (last, bottom), (first, bottom)]


def _draw_bytes(axes: Axes, record: LiveRecord) -> None:
    size, unit = unit_of(max(moment.full_bytes for moment in record.held))
    places, held = [moment.at for moment in record.held], [moment.kv_bytes / size for moment in record.held]
    axes.plot(places, [moment.full_bytes / size for moment in record.held], color=FULL_COLOR, ls="--", lw=1.2)
    axes.plot(places, held, color=HELD_COLOR, marker="o", ms=2.5, lw=1.6)
    axes.fill_between(places, held, color=HELD_COLOR, alpha=0.12, lw=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(X_TITLE)
    axes.set_ylabel(f"KV cache, {unit}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=GRID)
    axes.set_axisbelow(True)


def _handles(record: LiveRecord) -> list[Patch | Line2D]:
    counts, n_flips = record.counts(), len(record.flips())
    roles = [
        Patch(color=ROLE_COLORS[role], label=f"{role} ({counts[role]} in the end)")
        for role in roles_in(segments(record))
    ]  # fmt: skip
    flip = Line2D([], [], ls="", marker="D", ms=4, color=INK, label=f"change of role ({n_flips})")
    held = Line2D([], [], color=HELD_COLOR, marker="o", ms=2.5, label=HELD_NAME)
    full = Line2D([], [], color=FULL_COLOR, ls="--", label=FULL_NAME)
    return [*roles, *([flip] if n_flips else []), held, full]
