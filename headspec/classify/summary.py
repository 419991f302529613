"""Averages over heads and offsets, for figures and tables."""

from dataclasses import dataclass

import numpy as np

from headspec.classify.head_map import HeadMap
from headspec.heads import HeadRole
from headspec.probe.profile import HeadProfile


@dataclass(frozen=True)
class RoleCurve:
    """How one statistic changes with the position, over the heads of one role: `[position bin]` each."""

    role: HeadRole
    n_heads: int
    median: np.ndarray
    lower: np.ndarray
    """First quartile over heads."""
    upper: np.ndarray
    """Third quartile over heads."""


def role_curves(profile: HeadProfile, head_map: HeadMap, statistic: str) -> list[RoleCurve]:
    """One curve a role that occurs, from `profile.by_position`."""
    by_position = profile.by_position[statistic]
    curves = []
    for role in HeadRole:
        cells = [profile.about.cell(head) for head in head_map.heads(role)]
        if cells:
            rows, columns = np.array(cells).T
            lower, median, upper = np.quantile(by_position[:, rows, columns], [0.25, 0.5, 0.75], axis=1)
            curves.append(RoleCurve(role, len(cells), median, lower, upper))
    return curves


def layer_medians(profile: HeadProfile, head_map: HeadMap, statistic: str, role: HeadRole) -> list[float]:
    """`[layer]`: median of a statistic over the heads of one role; NaN in a layer that has none."""
    heads = head_map.heads(role)
    cells = [[profile.about.cell(head) for head in heads if head.layer == layer] for layer in head_map.about.layers]
    grid = profile[statistic]
    return [float(np.median([grid[cell] for cell in own])) if own else float("nan") for own in cells]


def grouped_offsets(profile: HeadProfile) -> tuple[np.ndarray, list[str]]:
    """Attention by offset in few columns: `[layer, head, column]`, and their names: `0` … `7`, `8–15`, `16–31`, …"""
    last = int(profile.offset_edges[-1])
    edges = [*range(min(8, last + 1)), *(2**k for k in range(3, 64) if 2**k <= last)]
    starts = np.searchsorted(profile.offset_edges, edges)
    names = [str(edge) if edge < 8 else f"{edge}–{2 * edge - 1}" for edge in edges]
    return np.add.reduceat(profile.offset_mass, starts, axis=-1), names
