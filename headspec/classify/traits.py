"""What else a head is known for: previous-token, induction, sink-resting, near-constant, fixed-offset.

Traits describe; none of them decides a role.
"""

import numpy as np

from headspec.classify.head_map import Trait
from headspec.classify.thresholds import Thresholds
from headspec.heads import HeadId
from headspec.probe.profile import HeadProfile


def traits(profile: HeadProfile, cut: Thresholds) -> dict[HeadId, tuple[Trait, ...]]:
    """The traits of every head. A score that was not measured (NaN) gives no trait."""
    norm = profile["relative_output_norm"]
    grids = {
        Trait.PREVIOUS_TOKEN: profile["previous_token_score"] >= cut.previous_token,
        Trait.INDUCTION: profile["induction_score"] >= cut.induction,
        Trait.SINK_RESTING: profile["sink_attention_ratio"] >= cut.sink_resting,
        Trait.NEAR_CONSTANT: (norm > 0) & (profile["output_spread"] <= cut.near_constant * norm),
        Trait.FIXED_OFFSET: fixed_offset_share(profile) >= cut.fixed_offset,
    }
    return {
        head: tuple(trait for trait, grid in grids.items() if grid[profile.about.cell(head)])
        for head in profile.about.heads()
    }


def fixed_offset_share(profile: HeadProfile) -> np.ndarray:
    """Largest share of maxima at one *single* offset; bins of several offsets do not count."""
    width = np.diff([*profile.offset_edges, profile.about.window])
    return np.asarray(profile.max_attention_position[..., width == 1].max(-1))
