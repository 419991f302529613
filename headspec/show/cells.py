"""Every head as a cell, with matplotlib: its role, or one of its numbers.

Draws records; computes nothing. Needs no torch.
"""

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from headspec.classify.head_map import HeadMap
from headspec.probe.about import ProbeAbout
from headspec.probe.catalogue import STATISTICS
from headspec.probe.profile import HeadProfile
from headspec.show.style import (
    INK,
    MARKS_NOTE,
    ROLE_COLORS,
    ROLE_INK,
    ROLE_ORDER,
    SEQUENTIAL,
    SORT_ABOVE,
    TRAIT_MARKS,
    caption,
    head_order,
    role_grid,
)

SORTED_NOTE = "heads (sorted by role within each layer)"
BRIGHT = 0.6
"""Share of the colour scale from which dark letters are read better."""
CHARACTERS_PER_INCH = 14


def head_roles(profile: HeadProfile | None, head_map: HeadMap) -> Figure:
    """Every head coloured by its role; positional heads carry the window they need, traits a letter."""
    figure, axes = _layer_head_axes(head_map.about, "What every head does")
    order = head_order(head_map)
    colors = ListedColormap([ROLE_COLORS[role] for role in ROLE_ORDER])
    roles = np.take_along_axis(role_grid(head_map), order, axis=1)
    axes.imshow(roles, cmap=colors, vmin=-0.5, vmax=len(ROLE_ORDER) - 0.5, aspect="auto", interpolation="nearest")
    _separate_cells(axes, roles.shape)
    if len(head_map) <= SORT_ABOVE:
        for verdict in head_map:
            row, column = head_map.about.cell(verdict.head)
            marks = "".join(TRAIT_MARKS.get(trait, "") for trait in verdict.traits)
            text = "\n".join(part for part in (str(verdict.window or ""), marks) if part)
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ROLE_INK[verdict.role])
    counts = head_map.counts()
    handles = [Patch(color=ROLE_COLORS[role], label=f"{role} ({counts[role]})") for role in ROLE_ORDER]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    axes.set_xlabel(f"head\n{MARKS_NOTE}" if len(head_map) <= SORT_ABOVE else SORTED_NOTE)
    return figure


def entropy_heatmap(profile: HeadProfile, head_map: HeadMap) -> Figure:
    """Normalised entropy of every head: 0 looks at one key, 1 looks at all alike."""
    title = "Normalised attention entropy (not a role: sink heads have the lowest)"
    figure, axes = _layer_head_axes(head_map.about, title)
    _draw_cells(figure, axes, _ordered(profile, "normalized_entropy", head_map), 1.0, "entropy / log(visible keys)")
    axes.set_xlabel("head" if len(head_map) <= SORT_ABOVE else SORTED_NOTE)
    return figure


def statistic_heatmap(profile: HeadProfile, name: str, head_map: HeadMap | None = None) -> Figure:
    """One number of every head as colour, with its meaning and when it misleads."""
    about, known = profile.about, STATISTICS[name]
    figure, axes = _layer_head_axes(about, f"{known.label[0].upper()}{known.label[1:]}")
    values = _ordered(profile, name, head_map)
    _draw_cells(figure, axes, values, float(np.nanmax(values)), known.unit)
    width = int(figure.get_figwidth() * CHARACTERS_PER_INCH)
    where = SORTED_NOTE if head_map and values.size > SORT_ABOVE else "head"
    axes.set_xlabel("\n".join([where, *textwrap.wrap(f"{known.meaning} {known.caution}", width)]), fontsize=8)
    return figure


def _ordered(profile: HeadProfile, name: str, head_map: HeadMap | None) -> np.ndarray:
    grid = profile[name]
    return grid if head_map is None else np.take_along_axis(grid, head_order(head_map), axis=1)


def _draw_cells(figure: Figure, axes: Axes, values: np.ndarray, high: float, label: str) -> None:
    image = axes.imshow(np.ma.masked_invalid(values), cmap=SEQUENTIAL, vmin=0, vmax=high or 1.0, aspect="auto",
                        interpolation="nearest")  # fmt: skip
    figure.colorbar(image, ax=axes, label=label, pad=0.01)
    if values.size > SORT_ABOVE:
        axes.set_xticks([])
        return
    for (row, column), value in np.ndenumerate(values):
        ink = INK if np.isnan(value) or value >= BRIGHT * high else "#FFFFFF"
        axes.text(column, row, _short(value), ha="center", va="center", fontsize=7, color=ink)


def _short(value: float | np.floating) -> str:
    """As few letters as a cell has room for."""
    if np.isnan(value):
        return "–"
    return f"{value:.2f}".removeprefix("0") if value < 9.995 else f"{value:.3g}"


def _layer_head_axes(about: ProbeAbout, title: str) -> tuple[Figure, Axes]:
    n_layers, few = len(about.layers), len(about.layers) * about.n_heads <= SORT_ABOVE
    width, height = 2.5 + 0.42 * min(about.n_heads, 24), 2.2 + 0.36 * min(n_layers, 24)
    figure = Figure(figsize=(max(width, 7), max(height, 3.6)), layout="constrained")
    axes = figure.add_subplot()
    step = max(1, n_layers // 32)
    axes.set_yticks(range(0, n_layers, step), [str(layer) for layer in about.layers[::step]], fontsize=8)
    axes.set_ylabel("layer")
    axes.set_xticks(range(about.n_heads) if few else [], map(str, range(about.n_heads)) if few else [], fontsize=8)
    figure.suptitle(f"{title}\n{caption(about)}", fontsize=10)
    return figure, axes


def _separate_cells(axes: Axes, shape: tuple[int, ...]) -> None:
    axes.set_xticks(np.arange(-0.5, shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, shape[0]), minor=True)
    axes.grid(which="minor", color="#FFFFFF", lw=1 if shape[0] * shape[1] <= SORT_ABOVE else 0.3)
    axes.tick_params(which="minor", length=0)
