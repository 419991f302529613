"""What the rules look at: window masses and the like, computed from a HeadProfile.

Numbers only, no cut-offs and no roles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headspec.heads import Grid
from headspec.probe.profile import HeadProfile
from headspec.runtime.rules import FAIR_POSITION, window_share


@dataclass(frozen=True)
class WindowEvidence:
    """How much of a head's attention a window holds, `[layer, head]` each, shares in [0, 1]."""

    window: int
    mass: Grid
    """Attention on the last `window` keys and the sink keys."""
    share: Grid
    """Share of the attention outside the sinks that falls into the window."""


def judged_windows(profile: HeadProfile, windows: Sequence[int]) -> list[WindowEvidence]:
    """Evidence for every window size that this profile can judge, smallest first.

    All are judged on the same queries, late enough for the largest to be a real restriction, so that mass and share
    grow with the window. A probe of short windows of text cannot judge large windows: they are left out.
    """
    about = profile.about
    for largest in sorted(windows, reverse=True):
        fair = profile.position_edges >= max(about.first_query, FAIR_POSITION * largest)
        weights = profile.queries_per_position * fair
        if weights.sum() > 0 and largest <= profile.near_mass.shape[-1]:
            return [_evidence(profile, window, weights) for window in windows if window <= largest]
    return []


def _evidence(profile: HeadProfile, window: int, weights: np.ndarray) -> WindowEvidence:
    inside = _average(profile.near_mass[..., :window].sum(-1), weights)
    sink = _average(profile.by_position["sink_attention_ratio"], weights)
    return WindowEvidence(window, inside + sink, window_share(inside, sink))


def _average(by_position: np.ndarray, weights: np.ndarray) -> Grid:
    return np.asarray(np.tensordot(weights, by_position, axes=(0, 0)) / weights.sum())
