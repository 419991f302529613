"""The whole model at a glance: clusters of heads beside their roles, and roles layer by layer. Drawn with matplotlib.

Draws records; computes nothing. Needs no torch.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from headspec.classify.clusters import STRUCTURE, HeadClusters
from headspec.classify.head_map import HeadMap
from headspec.classify.summary import layer_medians
from headspec.errors import RecordError
from headspec.heads import HeadRole
from headspec.probe.catalogue import STATISTICS
from headspec.probe.profile import HeadProfile
from headspec.show.style import FAINT_INK, GRID, INK, LINE_COLORS, ROLE_COLORS, ROLE_INK, ROLE_ORDER, caption

CLUSTER_COLORS = LINE_COLORS
"""Paul Tol's muted set: none of them is the colour of a role. From the tenth cluster on they repeat."""
ROLE_MARKERS = {HeadRole.POSITIONAL: "o", HeadRole.GATHERING: "s", HeadRole.DEAD: "X"}
MOST_NAMED_HEADS = 64
MOST_NUMBERED_LAYERS, MOST_NAMED_LAYERS = 16, 40
LABEL_SIZE, LETTER = 7, (4.6, 8.0)
"""Of the names of heads: font size, and width and height of a letter, in points."""
DISTANCES = (5, 12, 22)
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
THREAD = {"arrowstyle": "-", "lw": 0.4, "color": FAINT_INK, "shrinkA": 0, "shrinkB": 3}


def head_clusters(clusters: HeadClusters, head_map: HeadMap) -> Figure:
    """Every head at its first two principal components; how clear the clusters are; which roles they hold.

    Needs clusters that were compared with the same head map: `cluster_heads(profile, head_map)`.
    """
    _check_compared(clusters, head_map)
    figure = Figure(figsize=(11, 6.6 + 0.19 * len(clusters.centres)), layout="constrained")
    verdict = clusters.sentence.replace("; ", "\n")
    figure.suptitle(f"Which heads resemble each other\n{verdict}\n{caption(clusters.about)}", fontsize=10)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.9, 1])
    scatter = figure.add_subplot(grid[:, 0])
    _scatter(scatter, clusters, head_map)
    _silhouettes(figure.add_subplot(grid[0, 1]), clusters)
    _contingency(figure.add_subplot(grid[1, 1]), clusters)
    _keys(figure, clusters, head_map)
    if len(head_map) <= MOST_NAMED_HEADS:
        figure.draw_without_rendering()  # the layout must be final before names can be kept apart
        _name_heads(scatter, clusters)
    return figure


def roles_by_layer(profile: HeadProfile, head_map: HeadMap, statistic: str = "relative_output_norm") -> Figure:
    """How many heads of each layer have each role, and their median of one statistic (a grid of the profile)."""
    head_map.about.check_model(profile.about.model, profile.about.n_layers, profile.about.n_heads)
    layers = head_map.about.layers
    figure = Figure(figsize=(min(max(7, 3 + 0.3 * len(layers)), 14), 6), layout="constrained")
    figure.suptitle(f"Roles layer by layer\n{caption(head_map.about)}", fontsize=10)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[1.3, 1])
    _stack_roles(upper, head_map)
    for role in ROLE_ORDER:
        medians = layer_medians(profile, head_map, statistic, role)
        lower.plot(range(len(layers)), medians, color=ROLE_COLORS[role], marker=ROLE_MARKERS[role], ms=6, lw=1.5,
                   mec=FAINT_INK, mew=0.5)  # fmt: skip
    lower.set_ylabel(f"{STATISTICS[statistic].label}\n(median, {STATISTICS[statistic].unit})")
    lower.set_ylim(bottom=0)
    lower.set_xlim(-0.6, len(layers) - 0.4)
    lower.grid(axis="y", color=GRID)
    step = 1 + (len(layers) - 1) // MOST_NAMED_LAYERS
    lower.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize=8)
    lower.set_xlabel("layer")
    counts = head_map.counts()
    handles = [Line2D([], [], color=ROLE_COLORS[role], marker=ROLE_MARKERS[role], ms=8, lw=5, mec=FAINT_INK, mew=0.5,
                      label=f"{role} ({counts[role]})") for role in ROLE_ORDER]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def cluster_color(cluster: int) -> str:
    """The colour of a cluster in every figure."""
    return CLUSTER_COLORS[cluster % len(CLUSTER_COLORS)]


def _check_compared(clusters: HeadClusters, head_map: HeadMap) -> None:
    head_map.about.check_model(clusters.about.model, clusters.about.n_layers, clusters.about.n_heads)
    counts = [len(head_map.heads(role)) for role in HeadRole]
    if clusters.contingency is None or [sum(row) for row in clusters.contingency] != counts:
        raise RecordError(f"these clusters of {clusters.about.model} were not compared with this head map: "
                          "make them with cluster_heads(profile, head_map).")  # fmt: skip


def _scatter(axes: Axes, clusters: HeadClusters, head_map: HeadMap) -> None:
    points, many = np.array(clusters.coordinates), len(head_map) > MOST_NAMED_HEADS
    colors = np.array([cluster_color(cluster) for cluster in clusters.assignment])
    for role in ROLE_ORDER:
        own = np.array([verdict.role == role for verdict in head_map])
        axes.scatter(points[own, 0], points[own, 1], c=colors[own], marker=ROLE_MARKERS[role], s=22 if many else 60,
                     edgecolors="#FFFFFF", linewidths=0.4, alpha=0.8 if many else 1)  # fmt: skip
    axes.margins(0.08)
    axes.set_xlabel(f"first principal component ({clusters.explained[0]:.0%} of the variance)")
    axes.set_ylabel(f"second principal component ({clusters.explained[1]:.0%})")
    axes.grid(color=GRID)
    axes.set_axisbelow(True)


def _keys(figure: Figure, clusters: HeadClusters, head_map: HeadMap) -> None:
    counts, look = head_map.counts(), {"fontsize": 8, "title_fontsize": 8, "frameon": False, "alignment": "left"}
    shapes = [Line2D([], [], ls="", marker=ROLE_MARKERS[role], color=FAINT_INK, label=f"{role} ({counts[role]})")
              for role in ROLE_ORDER]  # fmt: skip
    colors = [
        Line2D([], [], ls="", marker="o", color=cluster_color(cluster),
               label=f"{cluster} ({size} head{'s' * (size > 1)}): {words}")
        for cluster, (size, words) in enumerate(zip(clusters.sizes, clusters.descriptions, strict=True))
    ]  # fmt: skip
    title = "colour: cluster, with what sets it apart from the mean of all heads (these are not the colours of roles)"
    figure.legend(handles=colors, loc="outside lower left", title=title, **look)
    figure.legend(handles=shapes, loc="lower right", title="shape: role, by the rules", **look)


def _name_heads(axes: Axes, clusters: HeadClusters) -> None:
    """Write each name at the nearest free place around its point; where none is free, there is no name."""
    to_points = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    points = axes.transData.transform(np.array(clusters.coordinates)) * to_points
    inside = Bbox(axes.get_window_extent().get_points() * to_points)
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    for head, point, at in zip(clusters.about.heads(), points, clusters.coordinates, strict=True):
        for distance, shift, box in _places(point, str(head)):
            if np.all(box.min > inside.min) and np.all(box.max < inside.max) and not box.count_overlaps(taken):
                name = axes.annotate(str(head), at, shift, textcoords="offset points", ha="center", va="center",
                                     fontsize=LABEL_SIZE, color=INK,
                                     arrowprops=THREAD if distance > DISTANCES[0] else None)  # fmt: skip
                name.set_in_layout(False)
                taken.append(box)
                break


def _places(point: np.ndarray, name: str) -> Iterator[tuple[int, tuple[float, float], Bbox]]:
    """(distance, shift of the middle, box) of where a name could stand, nearest first; in points of 1/72 inch."""
    size = np.array([LETTER[0] * len(name), LETTER[1]])
    for distance, direction in product(DISTANCES, DIRECTIONS):
        shift = np.array(direction) * (distance + size / 2)
        yield distance, (shift[0], shift[1]), Bbox.from_bounds(*(point + shift - size / 2), *size)


def _silhouettes(axes: Axes, clusters: HeadClusters) -> None:
    numbers, values = np.array(clusters.silhouettes).T
    for cut, words in STRUCTURE.items():
        axes.axhline(cut, color=FAINT_INK, lw=0.6, ls=":")
        axes.text(1.02, cut, f"↑ {words.split()[0]}", transform=axes.get_yaxis_transform(), va="center", fontsize=8,
                  color=FAINT_INK)  # fmt: skip
    axes.plot(numbers, values, color=INK, marker="o", ms=4, lw=1)
    chosen = len(clusters.centres)
    axes.plot([chosen], [clusters.silhouette], ls="", marker="o", ms=11, mfc="none", mec=INK)
    axes.set_title(f"how clear the clusters are (ring: {'asked for' if clusters.asked else 'the best'})", fontsize=9)
    axes.set_ylim(min(0, values.min() - 0.05), 1)
    axes.set_xlabel("number of clusters")
    axes.set_ylabel("mean silhouette")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _contingency(axes: Axes, clusters: HeadClusters) -> None:
    table = np.array(clusters.contingency)
    axes.imshow(table, cmap="Greys", vmin=0, vmax=2 * table.max(), aspect="auto", interpolation="nearest")
    for (row, column), count in np.ndenumerate(table):
        axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color=INK if count else FAINT_INK)
    axes.set_xticks(range(table.shape[1]), [str(cluster) for cluster in range(table.shape[1])])
    axes.set_yticks(range(len(HeadRole)), [str(role) for role in HeadRole])
    axes.tick_params(length=0)
    for cluster, label in enumerate(axes.get_xticklabels()):
        label.set(color=cluster_color(cluster), fontweight="bold")
    axes.set_xlabel("cluster")
    axes.set_title("heads of each role in each cluster", fontsize=9)


def _stack_roles(axes: Axes, head_map: HeadMap) -> None:
    layers = head_map.about.layers
    bottom = np.zeros(len(layers), int)
    for role in ROLE_ORDER:
        counts = np.array([head_map.counts(layer)[role] for layer in layers])
        bars = axes.bar(range(len(layers)), counts, bottom=bottom, width=0.85, color=ROLE_COLORS[role])
        if len(layers) <= MOST_NUMBERED_LAYERS:
            axes.bar_label(bars, [str(count or "") for count in counts], label_type="center", fontsize=8,
                           color=ROLE_INK[role])  # fmt: skip
        bottom += counts
    axes.set_ylabel("heads")
    axes.set_ylim(0, head_map.about.n_heads)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
