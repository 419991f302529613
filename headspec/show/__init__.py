"""Makes figures of records; computes nothing.

In a notebook: `roles`, `statistic`, `offsets`, `by_position`, `clusters`, `sweep`, `pareto`, `benchmark` and `timeline`
return plotly figures that tell what each number means when one points at it, and show a PNG where no scripts run;
`attention(model, text, heads)` draws patterns. `figure.save_png(path)` and `save_page(figure, path)` write them down.

For results folders: `draw_all` writes the PNGs of an analysis and `save_all` its pages, `benchmark_figures` gives all
that a benchmark allows; `sweep_png`, `pareto_png` and `timeline_png` write one PNG.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "patterns": ("attention",),
    "static": ("draw_all", "temporal_evolution"),
    "cells": ("head_roles", "entropy_heatmap", "statistic_heatmap"),
    "reach_image": ("position_preference", "head_offsets"),
    "overview": ("roles_by_layer", "head_clusters"),
    "interactive": ("roles", "statistic"),
    "reach": ("offsets",),
    "groups": ("by_position", "clusters"),
    "tradeoff": ("pareto", "pareto_png"),
    "sweep_page": ("sweep",),
    "sweep_image": ("sweep_png", "draw_sweep"),
    "forecasts": ("prediction",),
    "benchmark_page": ("benchmark",),
    "benchmark_folder": ("benchmark_figures",),
    "benchmark_quality_page": ("quality_figure",),
    "benchmark_bars_page": ("speed_figure", "roofline_figure"),
    "live_timeline": ("timeline",),
    "live_timeline_png": ("timeline_png", "draw_timeline"),
    "page": ("save_page", "save_all"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"headspec.show has no {name!r}: there are {', '.join(__all__)}.")
    return getattr(import_module(f"headspec.show.{_HOMES[name]}"), name)
