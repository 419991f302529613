"""How well cheap numbers predict exact effects, drawn with matplotlib. Computes nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headspec.show.style import FAINT_INK, GRID, INK, LINE_COLORS


def prediction(table: Any, treatments: Sequence[str], title: str) -> Figure:
    """Rank correlation of every predictor with the KL on text and on repeats, one panel a treatment.

    Args:
        table: From `headspec.search.evidence.predictors`.
        treatments: Which to draw, from left to right.
        title: What stands above.
    """
    names = list(dict.fromkeys(table[table.treatment.isin(treatments)].predictor))
    figure = Figure(figsize=(3 + 3.2 * len(treatments), 1.6 + 0.24 * len(names)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = np.atleast_1d(figure.subplots(1, len(treatments), sharey=True))
    for panel, treatment in zip(axes, treatments, strict=True):
        _panel(panel, table[table.treatment == treatment].set_index("predictor"), names)
        panel.set_title(treatment, fontsize=10)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, rows: Any, names: Sequence[str]) -> None:
    for column, label, shift, color in (
        ("kl", "with the KL on text", -0.18, LINE_COLORS[0]),
        ("repeats_kl", "with the KL on repeated tokens", 0.18, LINE_COLORS[1]),
    ):
        values = [rows[column].get(name, np.nan) for name in names]
        axes.barh(np.arange(len(names)) + shift, values, height=0.34, color=color, label=label)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set(xlim=(-1, 1), xlabel="Spearman rank correlation")
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT_INK, labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
