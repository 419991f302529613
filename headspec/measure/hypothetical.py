"""Plans that nobody has judged, for timing shapes: what a model would gain if so many heads could be treated."""

import random
from typing import Any

from headspec.load.identity import identify
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan

SHARES = {"b": (0.1, 0.3), "c": (0.25, 0.5), "d": (0.2, 0.7), "e": (0.25, 0.5)}
"""Share of removed and of windowed heads of every layer."""
WINDOWS = {"b": (3, 4, 8, 16), "c": (3, 4, 8, 16), "d": (3, 4, 8, 16), "e": (32, 64)}
"""Windows in turn, each with 4 sinks."""


def hypothetical_plan(model: Any, name: str) -> HeadPlan:
    """One of the plans, drawn alike for every layer and run; at least one head a layer keeps every key."""
    known, draw = identify(model), random.Random(0)
    removed, windowed = (round(share * known.n_heads) for share in SHARES[name])
    windowed = min(windowed, known.n_heads - removed - 1)
    treatments = {}
    for layer in range(known.n_layers):
        heads = draw.sample(range(known.n_heads), known.n_heads)
        for place, head in enumerate(heads[: removed + windowed]):
            what = "zero" if place < removed else f"window:{WINDOWS[name][place % len(WINDOWS[name])]}"
            treatments[f"L{layer}H{head}"] = what
    return plan_heads(model, treatments)
