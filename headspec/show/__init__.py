"""Makes figures of records; computes nothing.

`headspec.show.attention(model, text, heads)` draws patterns in Jupyter; `headspec.show.draw_all` writes the PNGs.
`roles`, `statistic`, `offsets`, `by_position`, `clusters` and `pareto` return plotly figures; `save_page` writes one as
a page that works offline, `save_all` writes all of an analysis. Of a benchmark, `quality_figure`, `speed_figure` and
`roofline_figure` return a part each, `benchmark_figures` all that its rows allow. `timeline` and `timeline_png` show
every head over a text that was generated with live treatment.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "patterns": ("attention",),
    "static": ("draw_all", "head_roles", "entropy_heatmap", "position_preference", "temporal_evolution"),
    "overview": ("roles_by_layer", "head_clusters"),
    "interactive": ("roles", "statistic"),
    "reach": ("offsets",),
    "groups": ("by_position", "clusters"),
    "tradeoff": ("pareto", "pareto_png"),
    "forecasts": ("prediction",),
    "benchmark": ("benchmark_figures", "quality_figure", "speed_figure", "roofline_figure"),
    "live_timeline": ("timeline",),
    "live_timeline_png": ("timeline_png",),
    "page": ("save_page", "save_all"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"headspec.show has no {name!r}: there are {', '.join(__all__)}.")
    return getattr(import_module(f"headspec.show.{_HOMES[name]}"), name)
