"""What each case of a sweep costs, as PNG: heads one by one, growing groups, and plans. Drawn with matplotlib.

Draws a SweepTable; computes nothing. Needs no torch.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from headspec.classify.head_map import HeadMap
from headspec.plan.treatments import Treatment
from headspec.record_html import RANDOM_WEIGHTS
from headspec.search.table import SweepTable
from headspec.show.benchmark_frame import literal, style_axes
from headspec.show.static import save_png
from headspec.show.style import FAINT_INK, LINE_COLORS, SEQUENTIAL
from headspec.show.sweep_parts import (
    CHOICES,
    COLOR_DECADES,
    CONTROL,
    Row,
    Scale,
    SweepParts,
    caption_words,
    is_sorted,
    kind_words,
    ordered_heads,
    scale_of,
    sweep_parts,
)

KL = CHOICES[0]
WIDTH, POINTS_HEIGHT, COLUMNS = 10.0, 3.0, 2
"""Inches; heat maps side by side."""
MOST_MAPS = 6
"""Treatments of single heads that are drawn; the interactive figure has all."""
MOST_NUMBERED = 64
"""Heads up to which cells carry their number."""


def sweep_png(
    table: SweepTable, path: Path | str, treatment: str | Treatment | None = None, head_map: HeadMap | None = None
) -> Path:
    """Write what every case costs as PNG: the KL on text; `sweep` shows the other measures too."""
    return save_png(draw_sweep(table, treatment, head_map), Path(path))


def draw_sweep(table: SweepTable, treatment: str | Treatment | None = None, head_map: HeadMap | None = None) -> Figure:
    """The figure of `sweep_png`."""
    parts = sweep_parts(table, treatment)
    if head_map:
        head_map.about.check_model(parts.model, *parts.shape)
    maps = list(parts.singles)[:MOST_MAPS]
    points = [draw for holds, draw in ((parts.curves, _draw_curves), (parts.plans, _draw_plans)) if holds]
    n_rows = math.ceil(len(maps) / COLUMNS)
    heights = [part for part in (n_rows * _map_height(parts), len(points) * POINTS_HEIGHT) if part]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.6), layout="constrained")
    figure.suptitle("\n".join(_titles(parts, maps)), fontsize=10)
    halves = list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).flat)
    if maps:
        _draw_maps(halves.pop(0), parts, maps, head_map)
    if points:
        for axes, draw in zip(halves[0].subplots(len(points), 1, squeeze=False).flat, points, strict=True):
            draw(axes, parts)
    return figure


def _titles(parts: SweepParts, maps: Sequence[str]) -> list[str]:
    left_out = len(parts.singles) - len(maps)
    return [
        f"What treating heads of {parts.model} costs: {KL.axis}. Effects of single heads do not add up.",
        caption_words(parts),
        *([f"{left_out} more treatments of single heads: in the interactive figure"] if left_out else []),
        *([RANDOM_WEIGHTS] if parts.model.startswith("random:") else []),
    ]


def _map_height(parts: SweepParts) -> float:
    return min(max(1.6, 0.32 * parts.shape[0] + 0.7), 5.0)


def _draw_maps(figure: SubFigure, parts: SweepParts, maps: Sequence[str], head_map: HeadMap | None) -> None:
    """A heat map a treatment, all with one colour bar."""
    scale = scale_of(KL, parts.single_rows, COLOR_DECADES)
    grid = figure.subplots(math.ceil(len(maps) / COLUMNS), min(len(maps), COLUMNS), squeeze=False)
    for axes in grid.flat[len(maps) :]:
        axes.set_axis_off()
    for axes, treatment in zip(grid.flat, maps, strict=False):
        image = _draw_map(axes, parts, treatment, scale, head_map)
        axes.set_title(f"one head at a time: {treatment}", fontsize=9, loc="left")
    bar = figure.colorbar(image, ax=list(grid.flat), pad=0.01, aspect=30)
    bar.ax.yaxis.set_major_locator(FixedLocator(scale.ticks()))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, scale)))
    bar.set_label("KL, nats a token", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _draw_map(axes: Axes, parts: SweepParts, treatment: str, scale: Scale, head_map: HeadMap | None) -> Any:
    norm = LogNorm(scale.low, scale.high, clip=True)
    rows, heads = parts.singles[treatment], ordered_heads(parts, head_map)
    values = np.array([[_value(rows.get(head)) for head in layer] for layer in heads])
    shown = np.ma.masked_invalid(np.maximum(values, scale.low))
    image = axes.imshow(shown, norm=norm, cmap=SEQUENTIAL, aspect="auto", interpolation="nearest")
    n_layers, n_heads = parts.shape
    step = max(1, n_layers // 16)
    axes.set_yticks(range(0, n_layers, step), [str(layer) for layer in range(0, n_layers, step)], fontsize=8)
    axes.set_ylabel("layer", fontsize=8)
    if is_sorted(parts, head_map):
        axes.set_xticks([])
        axes.set_xlabel("heads (sorted by role within each layer)", fontsize=8)
    else:
        step = max(1, n_heads // 16)
        axes.set_xticks(range(0, n_heads, step), [str(head) for head in range(0, n_heads, step)], fontsize=8)
        axes.set_xlabel("head", fontsize=8)
    if n_layers * n_heads <= MOST_NUMBERED:
        for (row, column), value in np.ndenumerate(values):
            if not math.isnan(value):
                bright = norm(max(value, scale.low)) > 0.6
                axes.text(column, row, f"{value:.1g}", ha="center", va="center", fontsize=6.5,
                          color="#222222" if bright else "#FFFFFF")  # fmt: skip
    return image


def _draw_curves(axes: Axes, parts: SweepParts) -> None:
    every = [row for rows in (*parts.curves.values(), *parts.random.values()) for row in rows]
    scale = scale_of(KL, every)
    for place, (name, rows) in enumerate(parts.curves.items()):
        color = LINE_COLORS[place % len(LINE_COLORS)]
        sizes = [row["n_heads"] for row in rows]
        axes.plot(sizes, _places(rows, scale), color=color, marker="o", ms=4, lw=1.4, label=literal(name))
        random = parts.random.get(name, [])
        axes.scatter([row["n_heads"] for row in random], _places(random, scale), marker="x", s=18, lw=0.9, color=color,
                     label=literal(f"{name}: random heads") if random else None)  # fmt: skip
    sizes = sorted({row["n_heads"] for row in every})
    if sizes[0] > 0:
        axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("heads treated", fontsize=8)
    _finish(axes, "more and more heads together", scale)


def _draw_plans(axes: Axes, parts: SweepParts) -> None:
    scale = scale_of(KL, [row for rows in parts.plans.values() for row in rows])
    for place, (kind, rows) in enumerate(parts.plans.items()):
        look: dict[str, Any] = {"marker": "x", "color": FAINT_INK, "s": 20, "lw": 0.9} if kind == CONTROL else {
            "marker": "o", "color": LINE_COLORS[place % len(LINE_COLORS)], "s": 28}  # fmt: skip
        axes.scatter([row["kv_share"] for row in rows], _places(rows, scale), label=literal(kind_words(kind)), **look)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("KV bytes left at the model's context, share of the original's", fontsize=8)
    _finish(axes, "plans", scale)


def _finish(axes: Axes, title: str, scale: Scale) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_yscale("log")
    axes.set_ylim(scale.low / 1.3, scale.high * 1.3)
    axes.set_ylabel("KL, nats a token", fontsize=8)
    style_axes(axes)
    axes.tick_params(labelsize=8)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)


def _value(row: Row | None) -> float:
    return math.nan if row is None or row["kl"] is None else float(row["kl"])


def _places(rows: Sequence[Row], scale: Scale) -> list[float]:
    return [scale.place(row["kl"]) for row in rows]


def _tick(value: float, scale: Scale) -> str:
    return f"≤ {value:g}" if value <= scale.low else f"{value:g}"
