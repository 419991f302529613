"""The textbook definitions of the three roles, kept so that what they cost can be measured.

Positional: low entropy, maximum at a fixed offset. Dead: near-uniform, or no key gets much. Gathering: the
rest. They look at the shape of attention only, never at what the head writes: they miss most local heads and take
broad averaging heads for dead.
"""

import numpy as np

from headspec.classify.head_map import HeadStatus, HeadVerdict
from headspec.classify.thresholds import Thresholds
from headspec.classify.traits import fixed_offset_share
from headspec.heads import HeadRole
from headspec.probe.profile import HeadProfile
from headspec.runtime.rules import above, below


def naive_verdicts(profile: HeadProfile, cut: Thresholds) -> list[HeadVerdict]:
    """Role, margin, window and reason of every head, in the order of the grids."""
    entropy, largest = profile["normalized_entropy"], profile["max_attention"]
    dead = np.maximum(above(entropy, cut.naive_uniform), below(largest, cut.naive_low_maximum))
    positional = np.minimum(below(entropy, cut.naive_low_entropy), above(fixed_offset_share(profile), cut.fixed_offset))
    verdicts = []
    for head in profile.about.heads():
        cell = profile.about.cell(head)
        reason = f"normalised entropy {entropy[cell]:.2f}, largest attention {largest[cell]:.2f}"
        if dead[cell] >= 0:
            verdict = HeadVerdict(head, HeadRole.DEAD, float(dead[cell]), status=HeadStatus.CANDIDATE, reason=reason)
        elif positional[cell] >= 0:
            margin = float(min(positional[cell], -dead[cell]))
            window = next((size for size in cut.windows if size > profile.top_offset[cell]), max(cut.windows))
            verdict = HeadVerdict(head, HeadRole.POSITIONAL, margin, window=window, reason=reason)
        else:
            margin = float(min(-dead[cell], -positional[cell]))
            verdict = HeadVerdict(head, HeadRole.GATHERING, margin, reason=reason)
        verdicts.append(verdict)
    return verdicts
