"""Profiles made of numbers instead of a model, to put a head exactly where a rule is decided."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headspec.classify.thresholds import Thresholds
from headspec.probe.about import ProbeAbout
from headspec.probe.catalogue import BY_POSITION, BY_WINDOW, GRIDS
from headspec.probe.profile import HeadProfile

CUT = Thresholds(
    windowed_mass=0.75, windowed_share=0.5, dead_spread=0.125, dead_spread_p95=0.25, dead_repeat_deviation=0.5,
    protected_induction=0.125,
)  # fmt: skip
"""Cut-offs that float32 holds exactly."""
ALIVE = {"output_spread": 0.5, "output_spread_p95": 0.5, "repeat_deviation": 0.75, "relative_output_norm": 0.5}
DEAD = dict.fromkeys(("output_spread", "output_spread_p95", "repeat_deviation"), 0.0)
AT_THE_CUT = {"output_spread": 0.125, "output_spread_p95": 0.25, "repeat_deviation": 0.5, "induction_score": 0.125}


@dataclass
class MadeUp:
    """One head: alive, and all its attention out of reach, unless something else is said."""

    near: dict[int, float] = field(default_factory=dict)
    """Attention on single offsets (0 is the own key), sinks left out."""
    sink: float = 0.0
    top: dict[int, float] = field(default_factory=dict)
    """Share of queries whose largest attention falls into an offset bin."""
    numbers: dict[str, float] = field(default_factory=dict)
    """Grids by name."""


def powers(window: int) -> list[int]:
    return [place for place in range(window) if place & (place - 1) == 0]


def profile_of(*heads: MadeUp, window: int = 512, first_query: int = 16, n_repeats: int = 2) -> HeadProfile:
    """A profile of one layer with these heads."""
    n_heads, positions = len(heads), np.array(powers(window))
    offsets = np.array([offset for offset in range(window) if offset < 64 or offset in powers(window)])
    grids = {name: _row([_number(head, name) for head in heads]) for name in GRIDS}
    near, top = np.zeros((len(positions), 1, n_heads, 64), "f4"), np.zeros((1, n_heads, len(offsets)), "f4")
    for index, head in enumerate(heads):
        near[:, 0, index, list(head.near)] = list(head.near.values())
        top[0, index, list(head.top)] = list(head.top.values())
    return HeadProfile(
        about=_about(n_heads, window, first_query, n_repeats),
        grids=grids,
        by_position={name: np.stack([grids[name]] * len(positions)) for name in BY_POSITION},
        by_window={name: grids[name][None] for name in BY_WINDOW},
        position_edges=positions,
        queries_per_position=np.diff([*positions, window]),
        offset_edges=offsets,
        offset_mass=np.zeros((1, n_heads, len(offsets)), "f4"),
        max_attention_position=top,
        max_attention_histogram=np.zeros((1, n_heads, 20), "f4"),
        near_mass=near,
        mean_z=np.zeros((1, n_heads, 8), "f4"),
        z_norm=np.zeros((1, n_heads), "f4"),
    )


def _number(head: MadeUp, name: str) -> float:
    return {"sink_attention_ratio": head.sink, **ALIVE, **head.numbers}.get(name, 0.0)


def _row(values: list[float]) -> NDArray[np.float32]:
    return np.array([values], dtype=np.float32)


def _about(n_heads: int, window: int, first_query: int, n_repeats: int) -> ProbeAbout:
    return ProbeAbout(
        model="made-up", n_layers=1, n_heads=n_heads, d_head=8, d_model=8 * n_heads, context=2048, layers=(0,),
        text="none", text_digest="", n_windows=1, window=window, segment=window, first_query=first_query,
        n_repeats=n_repeats,
    )  # fmt: skip
