"""A model of 2 layers with 4 heads that does not exist: its profile and head maps, made of numbers."""

from typing import Any

import numpy as np

from headspec.classify.head_map import HeadMap, HeadVerdict
from headspec.classify.thresholds import Thresholds
from headspec.heads import HeadId
from headspec.probe.about import ProbeAbout
from headspec.probe.catalogue import BY_POSITION, BY_WINDOW, GRIDS
from headspec.probe.profile import HeadProfile

D_HEAD = 8
CONTEXT = 64


def probe_about(model: str = "made-up", layers: tuple[int, ...] = (0, 1)) -> ProbeAbout:
    return ProbeAbout(
        model=model, n_layers=2, n_heads=4, d_head=D_HEAD, d_model=32, context=CONTEXT, layers=layers, text="numbers",
        text_digest="abc", n_windows=1, window=32, segment=32,
    )  # fmt: skip


def made_up_profile(seed: int = 0, model: str = "made-up", layers: tuple[int, ...] = (0, 1)) -> HeadProfile:
    """Random means and lengths of z, zeros elsewhere."""
    draw, shape = np.random.default_rng(seed), (len(layers), 4)
    grids = {name: np.zeros(shape, np.float32) for name in GRIDS}
    return HeadProfile(
        about=probe_about(model, layers),
        grids=grids,
        by_position={name: np.zeros((1, *shape), np.float32) for name in BY_POSITION},
        by_window={name: np.zeros((1, *shape), np.float32) for name in BY_WINDOW},
        position_edges=np.array([0]),
        queries_per_position=np.array([32]),
        offset_edges=np.arange(32),
        offset_mass=np.zeros((*shape, 32), np.float32),
        max_attention_position=np.zeros((*shape, 32), np.float32),
        max_attention_histogram=np.zeros((*shape, 20), np.float32),
        near_mass=np.zeros((1, *shape, 64), np.float32),
        mean_z=draw.standard_normal((*shape, D_HEAD)).astype(np.float32),
        z_norm=draw.uniform(1, 9, shape).astype(np.float32),
    )


def made_up_map(layers: tuple[int, ...] = (0, 1), **verdicts: str) -> HeadMap:
    """A map of these heads (`L0H1="confirmed"`, `L1H2="candidate"`, `L1H3="window 8"`), all others gathering."""
    about = probe_about(layers=layers)
    return HeadMap(about, Thresholds(), "default", tuple(_verdict(head, verdicts) for head in about.heads()))


def _verdict(head: HeadId, verdicts: dict[str, str]) -> HeadVerdict:
    what = verdicts.get(str(head), "gathering")
    values: dict[str, Any] = {"head": str(head), "role": "gathering", "margin": 1.0, "window": None, "status": None,
                              "traits": [], "evidence": {}, "reason": ""}  # fmt: skip
    if what in ("candidate", "confirmed"):
        values |= {"role": "dead", "status": what}
    elif what.startswith("window"):
        values |= {"role": "positional", "window": int(what.split()[1])}
    return HeadVerdict.from_dict(values)
