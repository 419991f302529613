"""The textbook definitions of the three roles, kept so that what they cost can be measured.

Positional: low entropy, maximum at a fixed offset. Dead: near-uniform, or no key gets much. Gathering: the
rest. They look at the shape of attention only, never at what the head writes, and mistake sink heads for
positional and broad averaging heads for dead.
"""

from typing import Any

import numpy as np

from headspec.classify.head_map import DeadStatus
from headspec.classify.thresholds import Thresholds
from headspec.heads import HeadRole
from headspec.probe.profile import HeadProfile
from headspec.runtime.rules import above, below


def naive_roles(profile: HeadProfile, cut: Thresholds) -> list[dict[str, Any]]:
    """Role, margin, window, status and reason of every head, in grid order."""
    entropy, largest = profile["normalized_entropy"], profile["max_attention"]
    dead = np.maximum(above(entropy, cut.naive_uniform), below(largest, cut.naive_low_maximum))
    positional = np.minimum(below(entropy, cut.naive_low_entropy), above(profile.top_offset_share, cut.fixed_offset))
    window = max(cut.windows)
    decisions = []
    for head in profile.about.heads():
        cell = profile.about.cell(head)
        reason = f"normalised entropy {entropy[cell]:.2f}, largest attention {largest[cell]:.2f}"
        decision: dict[str, Any] = {"role": HeadRole.GATHERING, "margin": float(min(-dead[cell], -positional[cell]))}
        if dead[cell] >= 0:
            decision = {"role": HeadRole.DEAD, "margin": float(dead[cell]), "status": DeadStatus.CANDIDATE}
        elif positional[cell] >= 0:
            needed = next((size for size in cut.windows if size > profile.top_offset[cell]), window)
            decision = {"role": HeadRole.POSITIONAL, "margin": float(positional[cell]), "window": needed}
        decisions.append({**decision, "reason": reason})
    return decisions
