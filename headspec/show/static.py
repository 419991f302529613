"""The PNGs of an analysis, drawn with matplotlib: they appear on a machine without a browser.

Draws records; computes nothing. Needs no torch.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from headspec.classify.clusters import HeadClusters
from headspec.classify.head_map import HeadMap
from headspec.classify.summary import role_curves
from headspec.files import write_whole
from headspec.probe.catalogue import STATISTICS
from headspec.probe.profile import HeadProfile
from headspec.show.cells import entropy_heatmap, head_roles
from headspec.show.overview import head_clusters, roles_by_layer
from headspec.show.reach_image import position_preference
from headspec.show.style import ROLE_COLORS, caption

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
    with without_glyph_warnings():
        return write_whole(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """Tokens may hold any letter; that the font has no picture of one is no news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


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
    headline = "As the context grows: median and middle half of the heads of each role"
    figure.suptitle(f"{headline}\n{caption(head_map.about)}", fontsize=10)
    return figure
