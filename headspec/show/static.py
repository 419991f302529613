"""The PNGs of an analysis, drawn with matplotlib: they appear on a machine without a browser.

Draws records; computes nothing. Needs no torch.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import StrMethodFormatter

from headspec.classify.clusters import HeadClusters
from headspec.classify.head_map import HeadMap
from headspec.classify.summary import grouped_offsets, role_curves
from headspec.files import write_whole
from headspec.probe.catalogue import STATISTICS
from headspec.probe.profile import HeadProfile
from headspec.show.overview import head_clusters, roles_by_layer
from headspec.show.style import (
    MOST_ROW_NAMES,
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

EVOLVING = ("normalized_entropy", "max_attention", "sink_attention_ratio", "relative_output_norm")


def draw_all(profile: HeadProfile, head_map: HeadMap, folder: Path, clusters: HeadClusters | None = None) -> list[Path]:
    """Write the PNGs into `folder`; that of the clusters if there are any."""
    figures: dict[str, Callable[[HeadProfile, HeadMap], Figure]] = {
        "head_roles.png": head_roles,
        "roles_by_layer.png": roles_by_layer,
        "entropy_heatmap.png": entropy_heatmap,
        "position_preference.png": position_preference,
        "temporal_evolution.png": temporal_evolution,
    }
    paths = [save_png(draw(profile, head_map), Path(folder) / name) for name, draw in figures.items()]
    if clusters is not None:
        paths.append(save_png(head_clusters(clusters, head_map), Path(folder) / "head_clusters.png"))
    return paths


def save_png(figure: Figure, path: Path) -> Path:
    """Write one figure, whole or not at all."""
    FigureCanvasAgg(figure)
    return write_whole(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def head_roles(profile: HeadProfile, head_map: HeadMap) -> Figure:
    """Every head coloured by its role; positional heads carry the window they need, traits a letter."""
    figure, axes = _layer_head_axes(head_map, "What every head does")
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
    note = "number: window in keys · p previous-token · i induction · s sink-resting · c near-constant"
    sorted_note = "sorted by role within each layer"
    axes.set_xlabel(f"head\n{note}" if len(head_map) <= SORT_ABOVE else f"heads ({sorted_note})")
    return figure


def entropy_heatmap(profile: HeadProfile, head_map: HeadMap) -> Figure:
    """Normalised entropy of every head: 0 looks at one key, 1 looks at all alike."""
    figure, axes = _layer_head_axes(head_map, "Normalised attention entropy (not a role: sink heads have the lowest)")
    order = head_order(head_map)
    values = np.take_along_axis(profile["normalized_entropy"], order, axis=1)
    image = axes.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=axes, label="entropy / log(visible keys)", pad=0.01)
    if len(head_map) <= SORT_ABOVE:
        for (row, column), value in np.ndenumerate(values):
            ink = "#FFFFFF" if value < 0.6 else "#222222"
            axes.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=ink)
    axes.set_xlabel("head" if len(head_map) <= SORT_ABOVE else "heads (sorted by role within each layer)")
    return figure


def position_preference(profile: HeadProfile, head_map: HeadMap) -> Figure:
    """How much attention each head gives to each relative offset; one row a head, grouped by role."""
    rows = sorted(head_map, key=lambda verdict: (ROLE_ORDER.index(verdict.role), verdict.window or 0, verdict.head))
    cells = [profile.about.cell(verdict.head) for verdict in rows]
    grouped, names = grouped_offsets(profile)
    mass = np.stack([grouped[cell] for cell in cells])
    figure = Figure(figsize=(10, min(4 + 0.16 * len(rows), 13)), layout="constrained")
    strip, axes = figure.subplots(1, 2, sharey=True, width_ratios=[1, 60])
    image = axes.imshow(np.maximum(mass, 1e-4), cmap=SEQUENTIAL, norm=LogNorm(1e-3, 1), aspect="auto",
                        interpolation="nearest")  # fmt: skip
    figure.colorbar(image, ax=axes, label="share of attention (log)", pad=0.01)
    colors = ListedColormap([ROLE_COLORS[role] for role in ROLE_ORDER])
    roles = np.array([[ROLE_ORDER.index(verdict.role)] for verdict in rows])
    strip.imshow(roles, cmap=colors, vmin=-0.5, vmax=len(ROLE_ORDER) - 0.5, aspect="auto", interpolation="nearest")
    strip.set_xticks([])
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_xlabel("relative offset of the key, in tokens (0 is the query's own; from 8 on several a column)")
    if len(rows) <= MOST_ROW_NAMES:
        strip.set_yticks(range(len(rows)), [str(verdict.head) for verdict in rows], fontsize=7)
    else:
        _name_role_bands(strip, roles[:, 0])
    _titles(figure, head_map, "Where each head looks, by relative offset")
    counts = head_map.counts()
    handles = [Patch(color=ROLE_COLORS[role], label=f"{role} ({counts[role]})") for role in ROLE_ORDER]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def temporal_evolution(profile: HeadProfile, head_map: HeadMap) -> Figure:
    """How four statistics change as the context grows: median and middle half of the heads of each role."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    starts = profile.position_edges
    shown = starts >= 1
    for axes, statistic in zip(figure.subplots(2, 2, sharex=True).flat, EVOLVING, strict=True):
        for curve in role_curves(profile, head_map, statistic):
            color = ROLE_COLORS[curve.role]
            axes.fill_between(starts[shown], curve.lower[shown], curve.upper[shown], color=color, alpha=0.3, lw=0)
            label = f"{curve.role} ({curve.n_heads})"
            axes.plot(starts[shown], curve.median[shown], color=color, marker="o", ms=3, label=label)
        axes.axvspan(1, profile.about.first_query, color="#000000", alpha=0.05, lw=0)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.set_title(STATISTICS[statistic].label, fontsize=10)
        axes.set_ylabel(STATISTICS[statistic].unit)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.2)
    for axes in figure.axes[2:]:
        axes.set_xlabel("position of the query (shaded: left out of averages)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    _titles(figure, head_map, "As the context grows: median and middle half of the heads of each role")
    return figure


def _layer_head_axes(head_map: HeadMap, title: str) -> tuple[Figure, Axes]:
    about = head_map.about
    n_layers = len(about.layers)
    width, height = 2.5 + 0.42 * min(about.n_heads, 24), 2.2 + 0.36 * min(n_layers, 24)
    figure = Figure(figsize=(max(width, 7), max(height, 3.6)), layout="constrained")
    axes = figure.add_subplot()
    step = max(1, n_layers // 32)
    axes.set_yticks(range(0, n_layers, step), [str(layer) for layer in about.layers[::step]], fontsize=8)
    axes.set_ylabel("layer")
    if len(head_map) <= SORT_ABOVE:
        axes.set_xticks(range(about.n_heads), [str(head) for head in range(about.n_heads)], fontsize=8)
    else:
        axes.set_xticks([])
    _titles(figure, head_map, title)
    return figure, axes


def _titles(figure: Figure, head_map: HeadMap, title: str) -> None:
    figure.suptitle(f"{title}\n{caption(head_map.about)}", fontsize=10)


def _separate_cells(axes: Axes, shape: tuple[int, ...]) -> None:
    axes.set_xticks(np.arange(-0.5, shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, shape[0]), minor=True)
    axes.grid(which="minor", color="#FFFFFF", lw=1 if shape[0] * shape[1] <= SORT_ABOVE else 0.3)
    axes.tick_params(which="minor", length=0)


def _name_role_bands(axes: Axes, roles: np.ndarray) -> None:
    middles = {index: np.flatnonzero(roles == index).mean() for index in np.unique(roles)}
    axes.set_yticks(list(middles.values()), [str(ROLE_ORDER[index]) for index in middles], rotation=90, va="center")
